"""See where a vision model looks while it is being fine-tuned."""

from lightning_cam import figures as figures
from lightning_cam import methods as methods
from lightning_cam import metrics as metrics
from lightning_cam import patches as patches
from lightning_cam import records as records
from lightning_cam import sinks as sinks
from lightning_cam import targets as targets
from lightning_cam.callback import CAMCallback as CAMCallback
from lightning_cam.callbacks.alarm import ShortcutAlarm as ShortcutAlarm
from lightning_cam.callbacks.patch_map import PatchMap as PatchMap
from lightning_cam.capture.seen import Seen as Seen
from lightning_cam.change.groups import Parts as Parts
from lightning_cam.data.annotations import Annotations as Annotations
from lightning_cam.data.batch import Batch as Batch
from lightning_cam.data.regions import Points as Points
from lightning_cam.explain import explain as explain
from lightning_cam.explanation import Explanation as Explanation
from lightning_cam.methods import fusion
from lightning_cam.record import Record as Record
from lightning_cam.render.style import Style as Style
from lightning_cam.training.numbers import Numbers as Numbers
from lightning_cam.training.trainer.schedule import Schedule as Schedule
from lightning_cam.watcher import Watcher as Watcher

fuse = fusion  # the family by its public name

__version__ = "0.1.0"
