"""Where objects are, out of a batch: boxes, masks and points of any form as masks."""

from lightning_cam.data.regions.masks import to_mask as to_mask
from lightning_cam.data.regions.points import Points as Points
from lightning_cam.data.regions.tv_tensors import with_formats as with_formats
