"""Detection: boxes pinned at the first look, and found again by overlap and score."""

from lightning_cam.targets.detection.pinned_boxes import detection as detection
