"""Finished pages: the sheet of a look, the filmstrip of a run, the concepts of a batch, the patches of large pictures."""

from lightning_cam.figures.filmstrip import filmstrip as filmstrip
from lightning_cam.figures.patch_map import PatchPage as PatchPage
from lightning_cam.figures.patch_map import patch_map as patch_map
from lightning_cam.figures.sheet import sheet as sheet
