"""Patches of large pictures by their places: the table, its file, its numbers, and the pixels that each patch covers."""

from lightning_cam.patches.columns import Columns as Columns
from lightning_cam.patches.csv_file import read_csv as read_csv
from lightning_cam.patches.file_name import PatchName as PatchName
from lightning_cam.patches.scores import PatchScores as PatchScores
from lightning_cam.patches.scores import score_patches as score_patches
from lightning_cam.patches.table import PatchTable as PatchTable
