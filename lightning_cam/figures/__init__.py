"""Finished pages: the sheet of a look, the filmstrip of a run, the concepts of a batch."""

from lightning_cam.figures.filmstrip import filmstrip as filmstrip
from lightning_cam.figures.sheet import sheet as sheet
