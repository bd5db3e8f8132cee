"""Finished pages: the sheet of a look, the filmstrip of a run, what moved in it, concepts, the patches of large pictures."""

from lightning_cam.figures.filmstrip import filmstrip as filmstrip
from lightning_cam.figures.part_bars import PartColumns as PartColumns
from lightning_cam.figures.part_bars import part_bars as part_bars
from lightning_cam.figures.patch_map import PatchPage as PatchPage
from lightning_cam.figures.patch_map import patch_map as patch_map
from lightning_cam.figures.sheet import sheet as sheet
