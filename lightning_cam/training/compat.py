"""The base class of a callback for either package tree, and what else differs between them."""

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback as Callback
else:  # lightning.pytorch and pytorch_lightning share no class; a child of both runs in a Trainer of either

    def _classes() -> Iterator[type]:
        for tree in ("lightning.pytorch", "pytorch_lightning"):
            try:
                yield importlib.import_module(f"{tree}.callbacks").Callback
            except ImportError:
                continue

    Callback = type("Callback", tuple(_classes()), {"__module__": __name__})
