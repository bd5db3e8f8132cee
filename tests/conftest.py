"""Every shape annotation of the package is checked in every test, and bits are compared on one thread."""

import random

from jaxtyping import install_import_hook

# beartype looks at one item of a list, drawn by this function, which it binds when it is imported: let it have a generator
# of its own, or the tests of random states would see the checks of types
shared = random.getrandbits
random.getrandbits = random.Random(0).getrandbits
install_import_hook("lightning_cam", "beartype.beartype")

import lightning_cam  # noqa: F401 - checked from its first import on

random.getrandbits = shared

import jaxtyping
import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Sums over threads differ in their last bits, and test runs side by side share the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers, whichever tests ran before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def unchecked():
    """As a user runs it, without shape checks: for mistakes whose own message is the promise."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
