"""Whether the box around the hot part of a map fits the object's; and the boxes of everything above a threshold."""

from lightning_cam.metrics.boxes.accuracy import max_box_acc as max_box_acc
from lightning_cam.metrics.boxes.accuracy import max_box_acc_v2 as max_box_acc_v2
