"""What moved at a look more than noise: maps that jumped, and looks at which the whole batch did. n maps."""

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from lightning_cam.change.events import NoiseScale, is_change_point, jumps
from lightning_cam.metrics.comparison.direction import cosine_distance
from lightning_cam.record import Event, Record
from lightning_cam.training.history import History


def note_moves(record: Record, history: History, moved: Sequence[Float[Tensor, "b t"]]) -> list[Event]:
    """Compare the last look of a history with the one before, and keep in it what jumped.

    Args:
        record: the last look.
        history: the run up to it.
        moved: how far each map moves by what should not move it, by each disturbance; NaN where not measured.
    """
    if len(history.looks) < 2:
        return []
    last = history.looks[-1]
    change = cosine_distance(last.values, history.looks[-2].values_of(last.classes))
    history.looks[-1] = replace(last, change=change)
    t = record.score.shape[1]
    noise = NoiseScale.of([values.flatten() for values in moved])
    if noise is None:
        return []
    jumped = jumps(change, noise, last.place)
    history.looks[-1] = replace(last, change=change, jumped=jumped)
    floor = noise.location.exp().float()
    places = jumped.nonzero()[:, 0].tolist()
    events = [Event(record.moment, record.tag, i // t, i % t, float(change[i]), float(floor[i])) for i in places]
    changes = [look.change for look in history.looks if look.change is not None]
    if is_change_point(changes, noise, last.place):
        events.append(Event(record.moment, record.tag, None, 0, float(change.nanmedian()), float(floor.nanmedian())))
    return events
