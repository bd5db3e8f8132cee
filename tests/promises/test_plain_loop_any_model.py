"""Promise 1 without a Trainer, of models and loaders that are not images in, logits out: every line is shown able to fail."""

import functools
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from loops import (
    Distillation,
    Located,
    Whole,
    average_once_more,
    by_hand,
    dicts,
    distilled,
    forget_an_entry,
    merge_and_unmerge,
    of_located,
    of_whole,
    pairs,
    pipeline,
    put_the_student_to_sleep,
    run_the_teacher,
    run_without_gradient,
    stream,
    take_a_batch,
    thaw,
    timms_with_adapters,
    torchvisions_with_adapters,
    write_into_the_batch,
    write_into_the_dataset,
    write_into_the_pipelines_memory,
)
from nets import SMALL, STRICT, Pictures
from plain import PlainNet, Task, differing, train
from torch import nn

from lightning_cam import Watcher

pytestmark = STRICT


@dataclass(frozen=True)
class Case:
    """One line of the matrix.

    Attributes:
        make: the model that is trained, its weights drawn anew.
        task: what it is trained on.
        wrong: does one thing that a look must not do, to the model, its task and the first batch.
        noticed: what of a run must differ for that.
        data: what is watched; without it the first batch that the loop is given.
        part: what of the model is watched.
        options: of the Watcher.
    """

    make: Callable[[], nn.Module]
    task: Callable[[], Task]
    wrong: Callable[[nn.Module, Task, Any], Any]
    noticed: str
    data: Callable[[], Any] | None = lambda: Pictures()
    part: Callable[[nn.Module], nn.Module] = lambda model: model
    options: dict[str, Any] = field(default_factory=dict)


OF_TOKENS = dict(method=["grad_cam", "attention_rollout", "le_grad", "ablation_cam"])
OF_PLACES = dict(layer="relu", method=["grad_cam", "score_cam", "ablation_cam"])
BOXED = dict(data=lambda: Pictures(form="dict"), options=OF_PLACES | dict(forward=by_hand))
IN_PROJ = "weight base_model.model.encoder.layers.encoder_layer_0.self_attention.base_layer.in_proj_weight"
MATRIX = {
    "lora_on_a_vision_transformer": Case(
        timms_with_adapters,
        pairs,
        merge_and_unmerge,
        "weight base_model.model.blocks.0.attn.qkv.base_layer.weight",
        options=OF_TOKENS,
    ),
    "lora_on_a_vision_transformer_and_the_loops_own_batch": Case(
        timms_with_adapters,
        pairs,
        thaw,
        "requires_grad base_model.model.blocks.0.attn.qkv.base_layer.weight",
        data=None,
        options=dict(method={"smooth": {"method": "grad_cam", "n": 2}}, concepts=2),
    ),
    "lora_on_torchs_own_attention": Case(torchvisions_with_adapters, pairs, run_without_gradient, IN_PROJ, options=OF_TOKENS),
    "a_student": Case(
        Distillation,
        distilled,
        put_the_student_to_sleep,
        "training student.head",
        part=lambda model: model.student,
        options=OF_PLACES,
    ),
    "a_teacher": Case(
        Distillation,
        distilled,
        average_once_more,
        "buffer teacher.n_averaged",
        part=lambda model: model.teacher,
        options=OF_PLACES | dict(layer="module.relu"),
    ),
    "a_student_beside_its_teacher": Case(
        Distillation,
        distilled,
        run_the_teacher,
        "buffer teacher.module.trunk.1.running_mean",
        options=OF_PLACES | dict(layer=["student.relu", "teacher.module.relu"], forward="likeness"),
    ),
    "a_dict_and_a_call_of_ones_own": Case(
        lambda: Located(0.3, True), dicts(of_located), write_into_the_dataset, "data", **BOXED
    ),
    "a_dict_of_the_loops_own_and_a_call_that_writes_into_it": Case(
        lambda: Located(0.3, True), dicts(of_located), write_into_the_batch, "data", **BOXED | dict(data=None)
    ),
    "a_dict_that_draws_and_a_method": Case(
        lambda: Located(0.3),
        dicts(of_located, augment=True),
        forget_an_entry,
        "data",
        data=None,
        options=OF_PLACES | dict(forward=Located.of_batch),
    ),
    "a_dict_as_a_whole": Case(
        lambda: Whole(0.3, True), dicts(of_whole), write_into_the_batch, "data", data=None, options=OF_PLACES
    ),
    "a_pipeline": Case(lambda: PlainNet(0.3, True), pipeline, take_a_batch, "data", data=None, options=OF_PLACES),
    "a_pipeline_whose_memory_is_used_again": Case(
        lambda: PlainNet(0.3, True),
        pipeline,
        write_into_the_pipelines_memory,
        "data",
        data=None,
        options=dict(layer=None, concepts=2),
    ),
    "a_stream_with_state": Case(lambda: PlainNet(0.3, True), stream(), take_a_batch, "data", data=None, options=OF_PLACES),
    "a_stream_with_state_and_workers": Case(
        lambda: PlainNet(0.3), stream(2), take_a_batch, "rng torch", data=None, options=OF_PLACES
    ),
}
WITHOUT_INDEX = [name for name in MATRIX if "pipeline" in name or "stream" in name]
UNDER_FABRIC = ["lora_on_torchs_own_attention", "a_student_beside_its_teacher", "a_dict_and_a_call_of_ones_own"]


class Looking:
    """A Watcher in a loop, made before it or of its first batch."""

    def __init__(self, case, model, folder, **options):
        options = dict(layer=None, style=SMALL, on_error="raise", folder=folder) | case.options | options
        self.make = lambda data: Watcher(case.part(model), data, batch=4, **options)
        self.watcher = None if case.data is None else self.make(case.data())
        self.looks = 0
        self.images = Pictures().images[:4]

    def look(self, step):
        if self.watcher is not None:
            self.looks += 1
            self.watcher.look(step)

    def meet(self, batch):
        if self.watcher is None:
            self.images = (batch["image"] if isinstance(batch, dict) else batch[0]).clone()
            self.watcher = self.make(batch)
            self.look(0)


def run(name, watch=None, fabric=False):
    """A run, watched by what ``watch(model, task)`` gives."""
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    model, task = MATRIX[name].make(), MATRIX[name].task()
    options = {}
    if watch is not None:
        looking = watch(model, task)
        options = dict(look=looking.look, meet=looking.meet)
    if fabric:
        options["fabric"] = Fabric(accelerator="cpu", devices=1)
    with warnings.catch_warnings():
        for text in ("on purpose", "of the evidence", "shown clipped"):
            warnings.filterwarnings("ignore", message=f"(?s).*{text}")
        return train(model, task=task, draw=True, **options)


@functools.cache
def unwatched(name, fabric):
    """The same for all tests that compare with it."""
    return run(name, fabric=fabric)


def twins(name, watch, fabric=False):
    """What differs between a run that is watched and one that is not, from which state on."""
    return differing(run(name, watch, fabric), unwatched(name, fabric))


def watched(name, folder, looking, **options):
    def watch(model, task):
        looking.append(Looking(MATRIX[name], model, folder, **options))
        return looking[0]

    return watch


def assert_looked(looking):
    histories = looking[0].watcher.history
    assert histories
    assert torch.equal(looking[0].watcher.batch.images, looking[0].images)
    for history in histories.values():
        assert len(history.heats) == 4
        assert not torch.equal(history.heats[0], history.heats[-1])


@pytest.mark.parametrize("name", MATRIX)
def test_a_plain_loop_is_bit_identical_with(name, tmp_path):
    looking = []
    assert twins(name, watched(name, tmp_path, looking)) == {}
    assert_looked(looking)


@pytest.mark.parametrize("name", UNDER_FABRIC)
def test_a_fabric_run_is_bit_identical_with(name, tmp_path):
    looking = []
    assert twins(name, watched(name, tmp_path, looking), fabric=True) == {}
    assert_looked(looking)


@pytest.mark.parametrize("name", MATRIX)
def test_looks_that_fail_leave_a_plain_loop_bit_identical_with(name, tmp_path):
    """The first look is right; in two more a method fails halfway, and in the last what reads the output."""
    looking, failed = [], []

    def fail(what, looks):
        if looking[0].looks in looks:
            failed.append(what)
            raise RuntimeError("on purpose")

    def half(seen):
        heat = (seen.gradient * seen.activation).sum(1)
        fail("a method", [2, 3])
        return heat

    def output(given):
        fail("the output", [4])
        return given

    options = dict(method=["grad_cam", half], output=output, on_error="warn")
    assert twins(name, watched(name, tmp_path, looking, **options)) == {}
    assert set(failed) == {"a method", "the output"}
    assert sorted({len(history.heats) for history in looking[0].watcher.history.values()}) == [1, 3]


class Wrong:
    """Does what a look must not do, in a look's place."""

    def __init__(self, name, model, task):
        self.do = lambda: MATRIX[name].wrong(model, task, self.batch)

    def meet(self, batch):
        self.batch = batch
        self.do()

    def look(self, step):
        if step > 0:
            self.do()


@pytest.mark.parametrize("name", MATRIX)
def test_the_comparison_catches_in(name):
    assert MATRIX[name].noticed in twins(name, functools.partial(Wrong, name))


# loaders that cannot be given


class Refused:
    """Gives the loop's own loader to a Watcher, as often as it looks."""

    def __init__(self, model, task):
        self.watcher = Watcher(model, task.loader, "relu", style=SMALL)
        self.meet = lambda batch: None

    def look(self, step):
        with pytest.raises(ValueError, match="has no samples by index, and iterating it would take samples from your loop"):
            self.watcher.look(step)


@pytest.mark.parametrize("name", WITHOUT_INDEX)
def test_a_loader_without_index_is_refused_and_gives_the_loop_the_same(name):
    assert twins(name, Refused) == {}


def test_a_batch_handed_in_stays_what_it_was_though_its_memory_is_used_again(tmp_path):
    looking, given = [], []

    def watch(model, task):
        given.append(task.loader)
        return watched("a_pipeline", tmp_path, looking)(model, task)

    run("a_pipeline", watch)
    assert len(given[0].given) == 18  # three epochs of six, and none for us
    assert torch.equal(looking[0].watcher.batch.images, given[0].given[0])
    assert not torch.equal(given[0].pixels, given[0].given[0])
