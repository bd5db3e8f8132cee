"""From forwards to Records: the parts of the fixed batch one by one, what all of them are together, and the numbers to log."""

from lightning_cam.training.look.computed import Computed as Computed
from lightning_cam.training.look.descriptions import descriptions as descriptions
from lightning_cam.training.look.glance import glance as glance
from lightning_cam.training.look.look import Look as Look
from lightning_cam.training.look.parts import ShareRow as ShareRow
from lightning_cam.training.look.result import LookResult as LookResult
from lightning_cam.training.look.result import Tags as Tags
from lightning_cam.training.look.result import logged_numbers as logged_numbers
from lightning_cam.training.look.view import View as View
