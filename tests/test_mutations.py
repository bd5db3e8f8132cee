"""The list of faults that tests must notice is whole and up to date; ``make mutate`` tries them."""

from pathlib import Path

import pytest
from mutations import ENGINE, METHODS, MUTATIONS, SHOWN, TARGETS

from lightning_cam import methods, metrics, targets
from lightning_cam.methods.fusion import names
from lightning_cam.registry import METHODS as METHOD_FAMILY
from lightning_cam.registry import METRICS

PACKAGE = Path(__file__).parent.parent / "lightning_cam"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_fault_changes_what_is_there_and_names_tests_that_are(mutation):
    assert mutation.old in (PACKAGE / mutation.file).read_text()
    assert mutation.old != mutation.new
    for file in mutation.tests.partition(" -k ")[0].split():
        assert (Path(__file__).parent / file).is_file(), file


@pytest.mark.parametrize(
    ("names", "faults"),
    [
        ([*methods.names(), *METHOD_FAMILY.wrappers()], METHODS),
        (targets.names(), TARGETS),
        ([f"fusion {name}" for name in names()], ENGINE),
        ([*metrics.names(), *METRICS.wrappers()], SHOWN),
    ],
)
def test_every_method_target_fusion_and_metric_is_broken_at_least_once(names, faults):
    broken = {name for name in names for fault in faults if fault.name.startswith((f"{name} ", f"{name}:"))}
    assert broken == set(names)
