"""Where the probabilities come from, and whether numbers are probabilities or logits."""

import pytest
import torch
from nets import STRICT
from slides import Grader, by_hand, fit, patch_map, slides
from torch import nn

from lightning_cam import PatchMap
from lightning_cam.callbacks.patch_keys import PatchKeys
from lightning_cam.callbacks.patch_outputs import OutputWatch, PatchOutput, read_output

pytestmark = STRICT


def total(table):
    return float(table.probability.sum())


SOURCES = {
    "the_modules_own_output": (dict(), dict(), "the output of the module"),
    "not_its_losses": (dict(), dict(returns="losses"), "the output of the module"),
    "a_part_where_the_module_is_not_called": (dict(), dict(call="parts"), "the output of 'head'"),
    "a_part_and_not_its_losses": (dict(), dict(call="parts", returns="losses"), "the output of 'head'"),
    "what_the_step_returns_by_a_usual_name": (dict(), dict(returns="dict", call="parts"), "'logits' of what"),
    "what_the_step_returns_by_key": (dict(output="mine"), dict(returns="dict"), "what validation_step returns"),
    "by_a_callable": (dict(output=lambda given: given["logits"]), dict(returns="dict"), "what validation_step returns"),
    "one_number": (dict(), dict(classes=1), "the output of the module, read as logits"),
    "one_probability": (dict(), dict(classes=1, sigmoid=True), "the output of the module, read as probabilities"),
}


@pytest.mark.parametrize("case", SOURCES)
def test_probabilities_are_taken_from(case, tmp_path, caplog):
    options, net, words = SOURCES[case]
    callback, module = patch_map(**options), Grader(**net)
    with caplog.at_level("INFO"):
        fit(tmp_path, [callback], module)
    sigmoid, module.sigmoid = module.sigmoid, False
    assert total(callback.table) == pytest.approx(total(by_hand(module)), abs=1e-3)
    module.sigmoid = sigmoid
    told = [record.message for record in caplog.records if "PatchMap: predictions" in record.message]
    assert len(told) == 1 and words in told[0]


def test_a_number_that_may_be_either_is_what_the_user_says(tmp_path):
    callback = patch_map(probabilities=False)
    fit(tmp_path, [callback], Grader(classes=1, sigmoid=True))
    assert float(callback.table.probability.min()) >= 0.5  # a sigmoid of what is in [0, 1]


def test_numbers_that_leave_the_unit_interval_are_logits_from_then_on(tmp_path):
    class Late(Grader):
        def forward(self, x):
            logits = super().forward(x)
            return 5 * logits if self.current_epoch == 1 else 0.4 * logits.sigmoid()

    with pytest.warns(UserWarning, match=r"now they do not, and are taken for logits\. Say which they are: PatchMap\(prob"):
        callback = patch_map()
        fit(tmp_path, [callback], Late(classes=1), max_epochs=3)
    # the last ones lie there again, and a sigmoid of them is at least a half
    assert 0.5 <= float(callback.table.probability.min()) <= float(callback.table.probability.max()) <= 1


@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_places_are_found_in_the_parts_of_a_batch_too(form, tmp_path):
    callback = patch_map()
    fit(tmp_path, [callback], val=slides(form=form))
    assert callback.table.patients == ("s9", "s10", "s11") and callback.table.target.unique().tolist() == [0, 1]


def batch(**more):
    return {"image": torch.zeros(4, 3, 8, 8), "target": torch.tensor([0, 1, 1, 0]), "patient_id": ["a"] * 4} | more


PLACES = dict(x=torch.arange(4), y=[1, 2, 3, 4])
KEYS = PatchKeys("patient_id", "x", "y")


def test_a_batch_is_read_whatever_holds_it():
    rows = PatchKeys(0, lambda given: given[1][:, 0], lambda given: given[1][:, 1], 2).read(
        (torch.tensor([3, 11]), torch.tensor([[1, 2], [3, 4]]), torch.tensor([[1.0], [0.0]]))
    )
    assert rows.patients.tolist() == [3, 11] and rows.x.tolist() == [1, 3] and rows.target.tolist() == [1, 0]
    given = batch(x=torch.arange(4.0), y=[1, 2, 3, 4])
    rows = KEYS.read(given)
    given["x"].fill_(7)  # memory that a loader uses for the next batch
    assert rows.x.tolist() == [0, 1, 2, 3] and rows.y.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("given", "keys", "words"),
    [
        (
            batch(x=[1] * 4),
            KEYS,
            r"PatchMap\(y='y'\): the batch has no such entry; it is a dict of image, target, patient_id, x\.",
        ),
        (batch(**PLACES, name=1), PatchKeys("pateint_id", "x", "y"), r"Did you mean 'patient_id'\? Say where it is: its name"),
        (batch(x=torch.zeros(4, 3, 8, 8), y=[1] * 4), KEYS, r"a number a patch, \[b\]; got Tensor\[4, 3, 8, 8\]\. Say where"),
        (batch(x=["wide"] * 4, y=[1] * 4), KEYS, r"PatchMap\(x=\.\.\.\): expected a number a patch, \[b\]; got list"),
        (
            batch(x=torch.zeros(4, dtype=torch.bfloat16), y=[1] * 4),
            KEYS,
            r"places come as torch\.bfloat16, .* dtype=torch\.long\)",
        ),
        (batch(x=[1] * 3, y=[1] * 4), KEYS, "as many of each: patient 4, x 3, y 4, target 4"),
        (batch(**PLACES, patient_id="abcd"), KEYS, r"expected a name or number a patch, \[b\]; got str"),
        ({"patient_id": ["a"], "x": [1], "y": [1]}, KEYS, r"No labels in the batch: .* PatchMap\(target='label'\)"),
    ],
)
def test_a_batch_that_cannot_be_read_is_refused_with_the_way_out(given, keys, words):
    with pytest.raises(ValueError, match=words):
        keys.read(given)


def test_the_ways_out_work():
    given = batch(where=torch.zeros(4, 2), grade=torch.ones(4))
    del given["target"]
    keys = PatchKeys("patient_id", lambda batch: batch["where"][:, 0], lambda batch: batch["where"][:, 1], "grade")
    assert keys.read(given).target.tolist() == [1] * 4


def test_rows_that_sum_to_one_are_probabilities_and_others_are_not():
    own = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 2, generator=own)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        read = PatchOutput.of(logits.softmax(1).to(dtype), None, "x")
        assert bool(read.proper) and torch.allclose(read.given, logits.softmax(1)[:, 1], atol=0.01)
    read = PatchOutput.of(logits, None, "x")
    assert not bool(read.proper) and torch.allclose(read.activated, logits.softmax(1)[:, 1])
    assert not bool(PatchOutput.of(torch.rand(64, 2, generator=own), None, "x").proper)
    broken = logits.softmax(1)
    broken[3] = torch.nan
    assert bool(PatchOutput.of(broken, None, "x").proper)
    assert torch.equal(PatchOutput.of(torch.tensor([[2.0], [-1.0]]), None, "x").given, torch.tensor([2.0, -1.0]))


def test_of_several_classes_one_must_be_named():
    logits = torch.randn(4, 5)
    with pytest.raises(ValueError, match=r"The output has 5 numbers a patch\. Say which class .* PatchMap\(positive=1\)"):
        PatchOutput.of(logits, None, "the output")
    assert torch.equal(PatchOutput.of(logits, 1, "the output").activated, logits.softmax(1)[:, 1])
    with pytest.raises(ValueError, match=r"PatchMap\(positive=5\): the model has 5 classes, 0 to 4"):
        PatchOutput.of(logits, 5, "the output")


def test_a_class_among_several(tmp_path):
    callback = patch_map(positive=2, target=lambda batch: 2 * batch["target"])
    fit(tmp_path, [callback], Grader(classes=3))
    assert callback.table.target.unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("output", "key", "words"),
    [
        (
            None,
            "logits",
            r"PatchMap\(output='logits'\): validation_step returned nothing\. Return \{'logits': logits\} from it",
        ),
        (
            {"loss": 1},
            "probs",
            r"PatchMap\(output='probs'\): what validation_step returned has no such entry; it is a dict of loss",
        ),
        ({"probs": torch.zeros(3, 2)}, "probs", r"expected \[b\], \[b 1\] or \[b k\] of 4 patches; got Tensor\[3, 2\]"),
        (
            torch.zeros(()),
            None,
            r"Nothing in the validation step says anything of its 4 patches: .* PatchMap\(output='logits'\)",
        ),
    ],
)
def test_a_step_that_says_nothing_of_its_patches_is_refused_with_the_way_out(output, key, words):
    with pytest.raises(ValueError, match=words):
        read_output(output, key, OutputWatch(), 4)
    logits, _ = read_output({"logits": torch.zeros(4, 2)}, "logits", OutputWatch(), 4)
    assert logits.shape == (4, 2)


class Wrapped(nn.Module):
    """As strategies do it: the step is called as if it were the forward."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 2)

    def forward(self, x):
        return self.net(x)


def test_a_step_that_is_run_as_a_forward_is_not_taken_for_the_output():
    module, watch = Wrapped(), OutputWatch()
    x = torch.rand(4, 3)
    watch.attach(module)

    def wrapped_forward(x):
        del module.forward
        module(x)
        return torch.ones(4)

    module.forward = wrapped_forward
    module(x)
    logits, source = read_output(None, None, watch, 4)
    assert torch.equal(logits, module.net(x)) and source == "the output of the module"
    watch.detach()
    assert not module._forward_hooks and not module.net._forward_hooks and not watch.calls


def test_parts_in_lists_are_watched_and_metrics_are_not():
    class Metric(nn.Module):
        def forward(self, x):
            return x[:, 0]

    module = nn.Module()
    module.heads = nn.ModuleDict({"tumour": nn.Linear(3, 2)})
    module.auc = Metric()
    watch = OutputWatch()
    watch.attach(module)
    x = torch.rand(4, 3)
    module.auc(module.heads["tumour"](x))
    logits, source = read_output(None, None, watch, 4)
    assert source == "the output of 'heads.tumour'" and torch.equal(logits, module.heads["tumour"](x))


class Sealed:
    """An output that answers no question."""

    def __getattr__(self, name):
        raise RuntimeError(name)


def test_what_is_caught_holds_no_feature_maps_and_ends_no_step():
    module = nn.ModuleDict({"odd": nn.Identity(), "trunk": nn.Conv2d(3, 4, 1), "pool": nn.Flatten()})
    watch = OutputWatch()
    watch.attach(module)
    module["odd"](Sealed())
    module["pool"](module["trunk"](torch.rand(4, 3, 8, 8)))
    assert [(name, logits.shape) for name, logits in watch.calls] == [("pool", (4, 256))]


def test_the_callback_is_public():
    assert PatchMap().tag == "patches"
