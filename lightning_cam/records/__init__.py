"""The record of a run: every look in the run's event files, and ``read``, which gives them back; numbers in a table too."""

from lightning_cam.records.contents import WatchedSamples as WatchedSamples
from lightning_cam.records.events import events as events
from lightning_cam.records.reader import RecordedLook as RecordedLook
from lightning_cam.records.reader import RunRecord as RunRecord
from lightning_cam.records.reader import read as read
from lightning_cam.records.table import read_table as read_table
from lightning_cam.records.table import samples as samples
