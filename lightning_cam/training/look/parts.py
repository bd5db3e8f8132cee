"""What moved the maps of a run, by parts of the net: the baseline's weights, and each look's shares. b batch, t targets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from lightning_cam.change.baseline import BaselineWeights, Changes
from lightning_cam.change.groups import Parts
from lightning_cam.change.parts import drift_by_parts
from lightning_cam.record import Moment, Record
from lightning_cam.training.history import History
from lightning_cam.training.look.part import Map, Part

ShareRow = tuple[str, dict[str, float]]  # a look's heading, and the mean share of each part

SHARE = "drift_of_"  # before a part's name, where its share stands among other numbers


@dataclass
class PartShares:
    """The run's shares of the drift by parts.

    Attributes:
        options: which parts, and at which looks; None where none are asked for.
        weights: the baseline's; a checkpoint does not hold them.
        rows: the looks' headings and mean shares, by the maps' tags.
        changes: what differs from the baseline at the present look, where shares are due.
    """

    options: Parts | None
    weights: BaselineWeights | None = None
    rows: dict[str, list[ShareRow]] = field(default_factory=dict)
    changes: Changes | None = None

    def begin(self, moment: Moment, model: nn.Module, histories: Mapping[str, History]) -> str:
        """Begin a look: keep the weights at the first, and at the others see what differs from them where shares are due.

        Returns:
            why there are no shares, in words; empty where nothing is wrong.
        """
        self.changes = None
        if self.options is None or not moment.fitting:
            return ""
        if not histories:
            self.weights = BaselineWeights.of(model, self.options)
            return ""
        if self.weights is None:
            return "a checkpoint does not hold the baseline's weights, so drift is not split by parts in a resumed run"
        looks = max((history.looks[-1].place + 1 for history in histories.values() if history.looks), default=0)
        if self.options.due(looks):
            self.changes = self.weights.changes(model)
        return ""

    def of(self, part: Part, maps: Mapping[str, Map], runs: Mapping[str, History]) -> dict[str, dict[str, Tensor]]:
        """Each sample's shares by tag and name, on the host; none where none are due."""
        if self.changes is None:
            return {}
        earlier = {tag: part.run(runs[tag], made) for tag, made in maps.items()}
        then = {tag: _baseline(run, maps[tag]) for tag, run in earlier.items() if run is not None and run.looks}
        now = {tag: maps[tag].record.heat for tag in then}

        def maps_now() -> dict[str, Tensor]:
            again = part.forward.with_images(part.forward.images)
            return {plan.tag: plan.heat(again) for plan in part.plans if plan.tag in now}

        shares = drift_by_parts(maps_now, now, then, self.changes)
        return {tag: {f"{SHARE}{name}": share.cpu() for name, share in of.items()} for tag, of in shares.items()}

    def keep(self, record: Record) -> None:
        """Keep the mean shares of a look, where it has any, for the picture of the run."""
        means = {
            name.removeprefix(SHARE): float(values.nanmean())
            for name, values in record.values.items()
            if name.startswith(SHARE)
        }
        if means:
            self.rows.setdefault(record.tag, []).append((record.moment.short, means))

    def state_dict(self) -> dict[str, Any]:
        """The rows; plain values, as a checkpoint may hold them."""
        return {tag: [[title, dict(means)] for title, means in rows] for tag, rows in self.rows.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the rows that a checkpoint holds."""
        self.rows = {tag: [(title, dict(means)) for title, means in rows] for tag, rows in state.items()}
        self.weights = None


def _baseline(run: History, made: Map) -> Float[Tensor, "b t *u"]:
    """The maps of the first look; NaN where the class was another."""
    classes = made.record.predictions.classes.flatten().int()
    kept: Tensor = run.looks[0].values_of(classes).unflatten(0, made.record.score.shape)
    return kept.to(made.record.heat)
