"""Whether a model's numbers are probabilities or logits, decided once a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_cam.callbacks.patch_collector import PatchPart
from lightning_cam.training.notices import Notices


@dataclass(eq=False)
class ProbabilityReading:
    """How the numbers of a run are read.

    A single number in [0, 1] may be either. Over a whole validation logits hardly ever all lie there; once a number was seen
    that is no probability, none is for the rest of the run, or maps would jump from one reading to the other.

    Attributes:
        given: what the user says; None to find out.
        notices: tell what was found.
        proper: whether all numbers so far may be probabilities.
        looked: whether there was a validation to go by.
    """

    given: bool | None
    notices: Notices
    proper: bool = True
    looked: bool = False

    def decide(self, parts: Sequence[PatchPart], remember: bool) -> bool:
        """Whether the numbers of a validation are probabilities.

        Args:
            parts: what all processes have of it.
            remember: whether the numbers are those of a whole validation, and count for the next ones.
        """
        proper = self.proper and all(part.proper for part in parts)
        are_probabilities = proper
        if self.given is not None:
            are_probabilities = self.given
        if remember:
            if self.given is None and self.looked and self.proper and not proper:
                self.notices.warn(
                    "the model's numbers lay in [0, 1] and were taken for probabilities; now they do not, and are taken for "
                    "logits. Say which they are: PatchMap(probabilities=False)."
                )
            self.proper = proper
            self.looked = True
            self._tell(parts, are_probabilities)
        return are_probabilities

    def _tell(self, parts: Sequence[PatchPart], are_probabilities: bool) -> None:
        source = next(part.source for part in parts if part.patients)
        kind = "logits"
        if are_probabilities:
            kind = "probabilities"
        self.notices.say(f"predictions are {source}, read as {kind}")
