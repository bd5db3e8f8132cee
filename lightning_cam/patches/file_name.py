"""Places out of the names of patch files."""

import re
from pathlib import PurePath
from typing import NamedTuple

_PART = re.compile(r"(?:^|_)(x|y|class)(-?[0-9]+)(?=_|\.|$)")
_INDEX = re.compile(r"_idx[0-9]+$")


class PatchName(NamedTuple):
    """What the name of a patch file tells.

    Attributes:
        patient: what stands in front of the place.
        x: where the patch lies from left to right.
        y: where it lies from top to bottom.
        target: its class, -1 where the name has none.
    """

    patient: str
    x: int
    y: int
    target: int

    @classmethod
    def of(cls, path: str | PurePath) -> "PatchName":
        """Read a name such as ``<patient>_idx5_x<x>_y<y>_class<class>.png``, as sets of breast histology patches have it.

        The naming is that of Janowczyk and Madabhushi, Journal of Pathology Informatics 2016, 7:29.

        Raises:
            ValueError: for a name without a place.

        Example:
            >>> PatchName.of("patches/8863/1/8863_idx5_x151_y1251_class1.png")
            PatchName(patient='8863', x=151, y=1251, target=1)
        """
        name = PurePath(path).name
        parts = list(_PART.finditer(name))
        values = {part[1]: int(part[2]) for part in parts}
        if not {"x", "y"} <= set(values):
            raise ValueError(f"{name!r} tells no place; expected a name such as '8863_idx5_x151_y1251_class1.png'.")
        patient = _INDEX.sub("", name[: parts[0].start()])
        return cls(patient, values["x"], values["y"], values.get("class", -1))
