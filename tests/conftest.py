"""Every shape annotation of the package is checked in every test, and bits are compared on one thread."""

from jaxtyping import install_import_hook

install_import_hook("lightning_cam", "beartype.beartype")

import random

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
