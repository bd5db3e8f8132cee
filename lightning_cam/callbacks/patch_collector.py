"""The patches of a validation, collected as it goes and gathered over all processes. n patches."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_cam.callbacks.patch_keys import PatchKeys, PatchRows
from lightning_cam.callbacks.patch_outputs import OutputWatch, PatchOutput, read_output
from lightning_cam.patches.columns import coded, labels
from lightning_cam.patches.table import PatchTable, first_at_place
from lightning_cam.record import to_host


@dataclass(frozen=True, eq=False)
class PatchPart:
    """What one process has of a validation.

    Attributes:
        patients: the name of each patch's patient.
        columns: x, y, the label, the number that the model gave and its sigmoid or softmax; empty where there is no patch.
        proper: whether what the model gave may be probabilities.
        source: where they are from, in words.
        error: what went wrong, in words; empty if nothing did.
    """

    patients: Sequence[str]
    columns: Sequence[Float[Tensor, "n"]]
    proper: bool = True
    source: str = ""
    error: str = ""


@dataclass(eq=False)
class PatchCollector:
    """Takes the patches out of the batches of a validation.

    A batch that cannot be read is the last: its error is kept until all processes meet, or the others would wait for ever.

    Attributes:
        keys: where a batch holds what.
        output: where the step's return value holds the numbers; None to find them.
        positive: the class that counts as 1.
        error: what went wrong.
    """

    keys: PatchKeys
    output: Any = None
    positive: int | None = None
    error: Exception | None = None
    _watch: OutputWatch = field(default_factory=OutputWatch)
    _rows: list[PatchRows] = field(default_factory=list)
    _outputs: list[PatchOutput] = field(default_factory=list)

    def begin(self, module: nn.Module) -> None:
        """Be ready for a step of the module."""
        if self.output is None and self.error is None:
            self._watch.attach(module)

    def add(self, output: Any, batch: Any) -> None:
        """Take what a step returned, and its batch."""
        try:
            if self.error is None:
                rows = self.keys.read(batch)
                values, source = read_output(output, self.output, self._watch, len(rows.x))
                self._outputs.append(PatchOutput.of(values, self.positive, source))
                self._rows.append(rows)
        except Exception as error:
            self.error = error
        finally:
            self._watch.detach()

    def end(self) -> PatchPart:
        """All that was taken."""
        try:
            part = self._part()
        except Exception as error:
            self.error = error
            part = PatchPart([], [])
        self.release()
        if self.error is not None:
            return PatchPart([], [], error=f"{type(self.error).__name__}: {self.error}")
        return part

    def release(self) -> None:
        """Let go of the module and of what was taken."""
        self._watch.detach()
        self._rows = []
        self._outputs = []

    def _part(self) -> PatchPart:
        if not self._rows:
            return PatchPart([], [])
        device = self._outputs[0].given.device
        columns = [torch.cat([getattr(rows, name).to(device) for rows in self._rows]) for name in ("x", "y", "target")]
        columns += [torch.cat([getattr(output, name) for output in self._outputs]) for name in ("given", "activated")]
        proper = bool(torch.stack([output.proper for output in self._outputs]).all())
        return PatchPart(self._patients(), columns, proper, self._outputs[-1].source)

    def _patients(self) -> list[str]:
        names: list[str] = []
        for rows in self._rows:
            values = rows.patients.tolist() if isinstance(rows.patients, Tensor) else rows.patients
            names += map(str, values)
        return names


def gather(trainer: Any, part: PatchPart) -> list[PatchPart]:
    """The parts of all processes, on each of them; through the host, where there are several."""
    if trainer.world_size == 1:
        return [part]
    part = replace(part, columns=to_host(part.columns))
    return [trainer.strategy.broadcast(part, rank) for rank in range(trainer.world_size)]


def make_table(parts: Sequence[PatchPart], positive: int | None, are_probabilities: bool) -> PatchTable:
    """One table of all parts; a patch that came more than once, as a sampler over processes repeats some, is there once.

    Raises:
        ValueError: for labels that are neither 0 nor 1, where nobody says which class is positive.
    """
    filled = [part for part in parts if part.patients]
    columns = [torch.cat(column) for column in zip(*(part.columns for part in filled), strict=True)]
    x, y, target, given, activated = columns
    patients, patient = coded(name for part in filled for name in part.patients)
    probability = activated
    if are_probabilities:
        probability = given
    table = PatchTable(patients, patient.to(x.device), x, y, labels(target, positive), probability)
    return table.rows(first_at_place(table).unique())
