"""Faithfulness: what the model makes of images changed by what a map says; each has its control beside it."""

from lightning_cam.metrics.faithfulness.adcc import adcc as adcc
from lightning_cam.metrics.faithfulness.adcc import coherency as coherency
from lightning_cam.metrics.faithfulness.adcc import complexity as complexity
from lightning_cam.metrics.faithfulness.curves import deletion as deletion
from lightning_cam.metrics.faithfulness.curves import insertion as insertion
from lightning_cam.metrics.faithfulness.drop import average_drop as average_drop
from lightning_cam.metrics.faithfulness.drop import average_gain as average_gain
from lightning_cam.metrics.faithfulness.drop import increase as increase
from lightning_cam.metrics.faithfulness.road import road as road
