"""Metrics that compare a look's maps with those of an earlier one: in direction, in order, and as mass that moved."""

from lightning_cam.metrics.comparison.direction import cosine as cosine
from lightning_cam.metrics.comparison.direction import drift as drift
from lightning_cam.metrics.comparison.mass import centre_shift as centre_shift
from lightning_cam.metrics.comparison.mass import jensen_shannon as jensen_shannon
from lightning_cam.metrics.comparison.mass import wasserstein as wasserstein
from lightning_cam.metrics.comparison.noise import drift_floor as drift_floor
from lightning_cam.metrics.comparison.noise import settled_at as settled_at
from lightning_cam.metrics.comparison.order import spearman as spearman
from lightning_cam.metrics.comparison.order import top_iou as top_iou
from lightning_cam.metrics.comparison.split import feature_drift as feature_drift
from lightning_cam.metrics.comparison.split import head_drift as head_drift
