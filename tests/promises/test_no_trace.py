"""Promise 1: training with and without the callback is bit-identical. Every check is shown able to fail."""

import functools
import warnings

import lightning.pytorch as L
import pytest
import torch
from nets import STRICT, Net, cam, loader
from streams import Logbook, Pipeline, Stream
from torch import nn
from torch.utils.data import DataLoader
from traces import Trace, differences, traced
from watching import watched

from lightning_cam import Batch, Numbers, Parts, Schedule, methods
from lightning_cam.registry import METHODS

pytestmark = STRICT

ALL = ["activation_mean", "cam", "grad_cam"]
OF_TRANSFORMERS = ["attention_rollout", "attention_relevance", "le_grad", "grad_eclip"]
EVERY_METHOD = [
    *(name for name in methods.names() if name not in OF_TRANSFORMERS),
    *({name: {"method": "grad_cam"}} for name in METHODS.wrappers()),
]
LAYERS = ["trunk", "trunk.0", "relu"]
EVERY_TARGET = ["label", "predicted", {"top_k": {"k": 2}}, 1, lambda logits, label: logits.logsumexp(1)]


def twins(folder, callback, *, net=None, train=None, val=None, entry="fit", workers=0, **options):
    """What differs between a run with a callback and the same run without."""
    net = functools.partial(Net, **(net or {}))
    train = functools.partial(loader, **{"n": 24, "shuffle": True, "size": 4, "workers": workers, **(train or {})})
    val = functools.partial(loader, **{"n": 12, "size": 3, "workers": workers, **(val or {})})
    runs = [
        traced(folder / name, callbacks, net, train, val, entry, **options)
        for name, callbacks in (("with", [callback]), ("without", []))
    ]
    assert len(runs[1].states) > (12 if entry == "fit" else 3)
    return differences(*runs)


ACCUMULATE = dict(accumulate_grad_batches=4, val_check_interval=3)  # validation falls inside the window
# every part put back at every look, and a picture of it
PARTS = dict(numbers=Numbers(parts=Parts({"trunk": "trunk", "last": "last", "head": "head"}, every=1)))
FEW = dict(batch=Batch(samples=20, pictures=2))
CHUNKS = dict(val=dict(n=24))

MATRIX = {
    "looks_by_steps": (dict(method=ALL, schedule=Schedule(every_n_steps=1)), dict(norm=True, dropout=0.2), ACCUMULATE),
    "looks_by_steps_and_adam": (
        dict(schedule=Schedule(every_n_epochs=0, every_n_steps=2)),
        dict(optimizer="adam", draw=True),
        dict(),
    ),
    "maps_some_batches_before": (dict(method=ALL, numbers=Numbers(batches_before=2)), dict(norm=True, dropout=0.2), ACCUMULATE),
    "plain_sgd_momentum": (dict(), dict(), dict()),
    "dropout": (dict(method=ALL), dict(dropout=0.3), dict()),
    "dropout_and_adam": (dict(), dict(dropout=0.3, optimizer="adam"), dict()),
    "a_scheduler": (dict(), dict(optimizer="adam", schedule=True), dict(max_epochs=3)),
    "training_that_draws_from_every_generator": (dict(), dict(draw=True, dropout=0.2), dict()),
    "batch_norm": (dict(method=ALL), dict(norm=True), dict()),
    "batch_norm_put_to_sleep_by_the_module": (dict(), dict(norm_asleep=True, dropout=0.2), dict()),
    "gradient_accumulation_across_validation": (dict(method=ALL), dict(norm=True), ACCUMULATE),
    "gradient_accumulation_and_adam": (dict(), dict(optimizer="adam", dropout=0.2), ACCUMULATE),
    "a_frozen_trunk": (dict(), dict(frozen=True, norm_asleep=True), dict()),
    "in_place_relu_behind_the_layer": (dict(layer="last"), dict(inplace=True), ACCUMULATE),
    "the_models_own_no_grad": (dict(layer="last"), dict(trunk_without_grad=True), ACCUMULATE),
    "a_forward_that_writes_a_buffer": (dict(), dict(buffer="in_place"), dict()),
    "a_forward_that_assigns_a_buffer": (dict(), dict(buffer="assigned"), dict()),
    "a_forward_that_writes_a_buffer_by_data": (dict(), dict(buffer="by_data"), dict()),
    "bf16_mixed": (dict(method=ALL), dict(norm=True), dict(precision="bf16-mixed")),
    "bf16_true": (dict(), dict(norm=True), dict(precision="bf16-true")),
    "double_precision": (dict(method=ALL), dict(norm=True, dropout=0.2), dict(precision="64-true")),
    "bf16_mixed_and_accumulation": (dict(), dict(dropout=0.2, optimizer="adam"), dict(precision="bf16-mixed", **ACCUMULATE)),
    "several_layers_methods_and_targets": (
        dict(layer=LAYERS, method=["activation_mean", "grad_cam"], target=EVERY_TARGET),
        dict(dropout=0.3, norm=True),
        ACCUMULATE,
    ),
    "every_method": (dict(method=EVERY_METHOD), dict(dropout=0.3, norm=True, draw=True), ACCUMULATE),
    "concepts": (dict(concepts=2, layer=["trunk.0", "relu"]), dict(dropout=0.3, norm=True), dict()),
    "a_target_that_predicts": (dict(target="predicted"), dict(dropout=0.3), dict()),
    "a_layer_found_by_itself": (dict(layer=None), dict(dropout=0.3, norm=True), dict()),
    "no_sanity_check": (dict(), dict(dropout=0.3, norm=True), dict(num_sanity_val_steps=0)),
    "validation_twice_an_epoch": (dict(), dict(dropout=0.3), dict(val_check_interval=0.5)),
    "validation_every_second_epoch": (dict(), dict(dropout=0.3), dict(check_val_every_n_epoch=2, num_sanity_val_steps=0)),
    "no_validation": (dict(), dict(dropout=0.3, norm=True), dict(limit_val_batches=0)),
    "gradient_clipping": (dict(), dict(dropout=0.3), dict(gradient_clip_val=0.1)),
    "augmentation_on_the_device": (dict(), dict(augment_on_device=True), dict()),
    "fast_dev_run": (dict(), dict(dropout=0.3), dict(fast_dev_run=3)),
    "what_moved_by_parts": (PARTS, dict(dropout=0.3, norm=True), ACCUMULATE),
    "what_moved_by_parts_and_adam": (PARTS, dict(optimizer="adam", schedule=True, draw=True), dict(max_epochs=3)),
    "what_moved_by_parts_and_a_frozen_trunk": (PARTS, dict(frozen=True, norm_asleep=True), ACCUMULATE),
    "what_moved_by_parts_and_an_assigned_buffer": (PARTS, dict(buffer="assigned", inplace=True), dict()),
    "what_moved_by_parts_and_bf16_mixed": (PARTS, dict(norm=True), dict(precision="bf16-mixed")),
    "what_moved_by_parts_and_bf16_true": (PARTS, dict(norm=True), dict(precision="bf16-true")),
    "what_moved_by_parts_and_double_precision": (PARTS, dict(norm=True), dict(precision="64-true")),
    "few_pictures": (dict(batch=Batch(samples=8, pictures=2)), dict(dropout=0.3, norm=True, draw=True), ACCUMULATE),
    "chunks": (FEW, dict(dropout=0.3, norm=True, draw=True), dict(**CHUNKS, **ACCUMULATE)),
    "chunks_and_what_moved_by_parts": (
        {**FEW, **PARTS, "concepts": 2, "method": ["activation_mean", "grad_cam"], "target": EVERY_TARGET},
        dict(dropout=0.3, norm=True, buffer="in_place"),
        dict(**CHUNKS, **ACCUMULATE),
    ),
}


SLOW = pytest.param("every_method", marks=pytest.mark.slow)


@pytest.mark.parametrize("case", [*(case for case in MATRIX if case != "every_method"), SLOW])
def test_training_is_bit_identical_with(case, tmp_path):
    callback, net, options = MATRIX[case]
    assert twins(tmp_path, cam(**callback), net=net, **options) == []


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_training_is_bit_identical_with_loaders_that_draw(workers, shuffle, tmp_path):
    data = dict(shuffle=shuffle, augment=True)
    assert twins(tmp_path, cam(method=ALL), net=dict(dropout=0.2), train=data, val=data, workers=workers) == []


def test_training_is_bit_identical_without_a_baseline(tmp_path):
    from lightning_cam import Schedule

    assert twins(tmp_path, cam(schedule=Schedule(baseline=False)), net=dict(dropout=0.3, norm=True), **ACCUMULATE) == []


def test_training_is_bit_identical_with_every_parameter_frozen(tmp_path):
    class Frozen(Net):
        def __init__(self):
            super().__init__(dropout=0.2, norm=True)
            self.requires_grad_(False)
            self.free = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return super().forward(x) * self.free

    train, val = functools.partial(loader, 24, shuffle=True, size=4), functools.partial(loader, 12)
    runs = [traced(tmp_path, callbacks, Frozen, train, val) for callbacks in ([cam(layer=LAYERS)], [])]
    assert differences(*runs) == []


@pytest.mark.parametrize("pooled", [False, True])
def test_training_is_bit_identical_with_attention_written_out(tmp_path, pooled):
    class Attentive(Net):
        def __init__(self):
            super().__init__()
            self.patch, self.token = nn.Conv2d(3, 8, 2, 2), nn.Parameter(torch.randn(1, 1, 8))
            block = nn.TransformerEncoderLayer(8, 2, 16, 0.2, batch_first=True)
            self.blocks, self.classifier = nn.TransformerEncoder(block, 2, enable_nested_tensor=False), nn.Linear(8, 3)
            self.pool = nn.MultiheadAttention(8, 2, 0.2, batch_first=True)

        def forward(self, x):
            token = self.token.expand(len(x), -1, -1)
            tokens = self.blocks(torch.cat([token, self.patch(x).flatten(2).mT], 1))
            if pooled:
                tokens, _ = self.pool(token, tokens, tokens)
            return self.classifier(tokens[:, 0])

    train, val = functools.partial(loader, 24, shuffle=True, size=4), functools.partial(loader, 12)
    watching = cam(layer=None, method=[*OF_TRANSFORMERS, "grad_cam"], on_error="raise")
    with warnings.catch_warnings():  # that little of the evidence is on the map
        warnings.simplefilter("ignore")
        runs = [traced(tmp_path, callbacks, Attentive, train, val) for callbacks in ([watching], [])]
    assert differences(*runs) == []


class Dicts(Net):
    """Its forward takes the whole dict."""

    def forward(self, batch):
        return super().forward(batch["image"])

    def loss(self, batch):
        return nn.functional.cross_entropy(self(batch), batch["label"])


class Located(Net):
    """Its forward takes a box beside the image."""

    def forward(self, image, box):
        return super().forward(image) + box.mean(1, keepdim=True)

    def loss(self, batch):
        return nn.functional.cross_entropy(self(batch["image"], batch["box"]), batch["label"])


class Distilled(Net):
    """A student that follows its teacher, an average of its own weights outside of the modules that Lightning knows."""

    def __init__(self):
        super().__init__(dropout=0.2, norm=True)
        self.student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.2))
        self.teacher = [Net(norm=True)]
        # what runs with the student writes into the module that it is a part of
        self.register_buffer("runs", torch.zeros(1))
        self.student.register_forward_hook(self.count)

    def count(self, *_):
        self.runs += 1

    @property
    def average(self):
        return self.teacher[0]

    def loss(self, batch):
        return super().loss(batch) + self.student(batch[0]).square().mean()

    def on_train_batch_end(self, *args):
        with torch.no_grad():
            for mine, its in zip(self.trunk.parameters(), self.average.trunk.parameters(), strict=True):
                its.lerp_(mine, 0.1)


def by_hand(model, images, batch):
    """A call of one's own that does what it should not: it changes the batch that it is given, and the images."""
    logits = model(images.clone(), batch.pop("box"))
    images.zero_()
    batch["image"].zero_()
    return logits


FORM = dict(form="dict")
ANY_MODEL = {
    "the_whole_batch": (Dicts, FORM, dict()),
    "the_whole_batch_and_perturbation": (Dicts, FORM, dict(method=["score_cam", "ablation_cam"])),
    "what_is_asked_for_by_name": (Located, FORM, dict(method=["grad_cam", "score_cam"])),
    "a_call_of_ones_own": (Located, FORM, dict(forward=by_hand, method=["grad_cam", "score_cam"])),
    "a_student": (Distilled, dict(), dict(model="student", layer="0", target="predicted", output=lambda a: a.mean((2, 3)))),
    "a_teacher_outside_the_module": (Distilled, dict(), dict(model=lambda module: module.average, layer="trunk")),
}


@pytest.mark.parametrize("case", ANY_MODEL)
def test_training_is_bit_identical_with_a_model_called_with(case, tmp_path):
    make, form, options = ANY_MODEL[case]
    train, val = functools.partial(loader, 24, shuffle=True, size=4, **form), functools.partial(loader, 12, **form)
    callback = cam(**{"on_error": "raise", **options})
    runs = [traced(tmp_path, callbacks, make, train, val) for callbacks in ([callback], [])]
    assert differences(*runs) == []
    assert callback.history


def test_training_is_bit_identical_with_adapters(tmp_path):
    peft = pytest.importorskip("peft")

    class Adapted(Net):
        def __init__(self):
            super().__init__()
            config = peft.LoraConfig(r=2, target_modules=["0", "2"], lora_dropout=0.2, modules_to_save=["4"])
            layers = [
                nn.Conv2d(3, 4, 3),
                nn.ReLU(),
                nn.Conv2d(4, 5, 3),
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(5, 3, 1),
                nn.Flatten(),
            ]
            self.adapted = peft.get_peft_model(nn.Sequential(*layers), config)

        def forward(self, x):
            return self.adapted(x)

    train, val = functools.partial(loader, 24, shuffle=True, size=4), functools.partial(loader, 12)
    callback = cam(layer=None, method=["grad_cam", "ablation_cam"], on_error="raise")
    runs = [traced(tmp_path, callbacks, Adapted, train, val) for callbacks in ([callback], [])]
    assert differences(*runs) == [] and callback.history


def test_training_is_bit_identical_under_every_logger(tmp_path):
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    loggers = [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "tb")]
    assert twins(tmp_path, cam(), net=dict(dropout=0.3), logger=loggers, enable_checkpointing=True) == []


def test_a_metric_logged_in_forward_stays_as_it_was(tmp_path):
    class Logs(Net):
        def forward(self, x):
            if self._trainer is not None:
                self.log("brightness", x.mean(), on_step=self.training, on_epoch=True, batch_size=len(x))
            return super().forward(x)

    train, val = functools.partial(loader, 24, shuffle=True, size=4), functools.partial(loader, 12)
    runs = [traced(tmp_path, callbacks, Logs, train, val) for callbacks in ([cam(method=ALL)], [])]
    assert differences(*runs) == []


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("entry", ["validate", "test"])
def test_evaluation_leaves_no_trace(entry, inference, tmp_path):
    net = dict(dropout=0.3, norm=True, buffer="in_place")
    callback = cam(layer=LAYERS, method=["activation_mean", "grad_cam"])
    assert twins(tmp_path, callback, net=net, entry=entry, inference_mode=inference) == []


def pipelines():
    """A training and a validation that draw from one generator, so that a batch too many shows in both."""
    generator = torch.Generator().manual_seed(0)
    return Pipeline(6, 4, generator=generator), Pipeline(generator=generator)


def streams(workers=0):
    """The same dataset for both, which goes on where it was left."""
    data = Stream(moving=True)
    return DataLoader(data, 4, num_workers=workers), DataLoader(data, 3, num_workers=workers)


UNINDEXED = {
    "a_pipeline": (pipelines, dict()),
    "a_pipeline_and_no_sanity_check": (pipelines, dict(num_sanity_val_steps=0)),
    "a_pipeline_and_no_validation": (pipelines, dict(limit_val_batches=0)),
    "a_pipeline_validated_twice_an_epoch": (pipelines, ACCUMULATE),
    "a_pipeline_and_validation_every_second_epoch": (pipelines, dict(check_val_every_n_epoch=2, num_sanity_val_steps=0)),
    "a_pipeline_overfitted": (pipelines, dict(overfit_batches=2)),
    "a_pipeline_in_fast_dev_run": (pipelines, dict(fast_dev_run=2)),
    "a_stream_with_state": (streams, dict()),
    "a_stream_with_state_and_workers": (functools.partial(streams, 2), dict(num_sanity_val_steps=0)),
}


def unindexed_twins(folder, callback, make, entry="fit", **options):
    runs = []
    for name, callbacks in (("with", [callback]), ("without", [])):
        train, val = make()
        net = functools.partial(Logbook, dropout=0.2, norm=True)
        runs.append(traced(folder / name, callbacks, net, lambda train=train: train, lambda val=val: val, entry, **options))
    order = runs[1].states[-1][1]["data"]
    assert len(set(order)) > 3  # what the model saw, in its order, is compared, and batches differ
    return differences(*runs)


@pytest.mark.parametrize("case", UNINDEXED)
def test_training_and_the_order_of_batches_are_the_same_with(case, tmp_path):
    make, options = UNINDEXED[case]
    callback = cam(batch=8, on_error="raise")
    moments = watched(callback)
    assert unindexed_twins(tmp_path, callback, make, **options) == []
    assert moments


@pytest.mark.parametrize("entry", ["validate", "test"])
def test_evaluation_of_a_pipeline_leaves_no_trace(entry, tmp_path):
    assert unindexed_twins(tmp_path, cam(batch=8, on_error="raise"), pipelines, entry) == []


@pytest.mark.parametrize("make", [pipelines, streams])
def test_a_batch_taken_from_the_users_own_loader_would_be_caught(make, tmp_path):
    found = unindexed_twins(tmp_path, Bad(lambda trainer, module: next(iter(trainer.val_dataloaders))), make)
    assert any(line.startswith("data") for line in found) and any(line.startswith("weight") for line in found)


# negative controls: what must be caught


class Bad(L.Callback):
    """Does one thing wrong at the end of every validation, and before training."""

    def __init__(self, wrong):
        self.wrong = wrong

    def on_train_start(self, trainer, module):
        self.wrong(trainer, module)

    def on_validation_epoch_end(self, trainer, module):
        if not trainer.sanity_checking:
            self.wrong(trainer, module)


def batch_of(trainer):
    data = trainer.val_dataloaders.dataset
    return torch.stack([data[i][0] for i in range(3)])


def backward(trainer, module):
    with torch.enable_grad():
        module(batch_of(trainer)).logsumexp(1).sum().backward()


def eval_train(trainer, module):
    before = module.training
    module.eval()
    nn.Module.train(module)
    if not before:
        module.training = False


def iterate_loader(trainer, module):
    next(iter(trainer.val_dataloaders))


def zero_grad(trainer, module):
    module.zero_grad()


def forget_hook(trainer, module):
    module.head.register_forward_hook(lambda *args: None)


def forget_backward_hook(trainer, module):
    module.trunk.register_full_backward_hook(lambda *args: None)


def forget_global_hook(trainer, module):
    _LEFT.append(nn.modules.module.register_module_forward_hook(lambda *args: None))


def forward_in_training_mode(trainer, module):
    flags = [(m, m.training) for m in module.modules()]
    module.train()
    with torch.no_grad(), torch.random.fork_rng():
        module(batch_of(trainer))
    for m, flag in flags:
        m.training = flag


def draw_numbers(trainer, module):
    torch.rand(())


def thaw(trainer, module):
    module.trunk.requires_grad_(True)


def leave_grad_on(trainer, module):
    torch.set_grad_enabled(True)


def change_stage(trainer, module):
    trainer.state.stage = type(trainer.state.stage).TESTING


def keep_attribute(trainer, module):
    module.extra = 1


_LEFT = []

CONTROLS = {
    "backward": (backward, "grad head.weight", dict()),
    "eval_then_train": (eval_train, "training trunk.1", dict(norm_asleep=True)),
    "an_iterated_loader": (iterate_loader, "rng torch", dict()),
    "zero_grad": (zero_grad, "grad head.weight", dict()),
    "a_hook_left": (forget_hook, "hooks head", dict()),
    "a_backward_hook_left": (forget_backward_hook, "hooks trunk", dict()),
    "a_global_hook_left": (forget_global_hook, "hooks global", dict()),
    "a_forward_in_training_mode": (forward_in_training_mode, "buffer trunk.1.running_mean", dict(norm=True)),
    "numbers_drawn": (draw_numbers, "rng torch", dict()),
    "a_thawed_trunk": (thaw, "requires_grad trunk.0.weight", dict(frozen=True)),
    "grad_left_on": (leave_grad_on, "mode grad", dict()),
    "another_stage": (change_stage, "stage", dict()),
    "an_attribute_left": (keep_attribute, "attributes ", dict()),
}


@pytest.mark.parametrize("case", CONTROLS)
def test_the_check_catches(case, tmp_path):
    wrong, caught, net = CONTROLS[case]
    try:
        found = twins(tmp_path, Bad(wrong), net={"dropout": 0.2, **net}, **ACCUMULATE)
    finally:
        while _LEFT:
            _LEFT.pop().remove()
    assert any(line.startswith(caught) for line in found), found


@pytest.mark.parametrize("wrong", [backward, zero_grad, iterate_loader, forward_in_training_mode])
def test_what_is_caught_does_change_the_weights(wrong, tmp_path):
    found = twins(tmp_path, Bad(wrong), net=dict(dropout=0.2, norm=True), **ACCUMULATE)
    assert any(line.startswith("weight") for line in found) or any(line.startswith("buffer") for line in found), found


def test_two_runs_without_a_callback_are_identical(tmp_path):
    assert twins(tmp_path, L.Callback(), net=dict(dropout=0.3, norm=True, draw=True), **ACCUMULATE) == []


def test_gradients_are_live_at_the_validation_that_is_compared(tmp_path):
    train, val = functools.partial(loader, 24, shuffle=True, size=4), functools.partial(loader, 12)
    trace = traced(tmp_path, [], Net, train, val, **ACCUMULATE)
    at_validation = [s for hook, s in trace.states if hook == "on_validation_epoch_end"]
    assert isinstance(trace, Trace) and any(s["grad head.weight"] != "None" for s in at_validation)
