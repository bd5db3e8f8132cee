"""Mistakes of configuration are raised at construction or before the first step, and name the nearest right thing."""

import subprocess
import sys

import pytest
import torch
from nets import SIDE, STRICT, Net, Pictures, cam, fit, loader
from torch.utils.data import DataLoader, TensorDataset

import lightning_cam
from lightning_cam import Batch, CAMCallback, Schedule
from lightning_cam.render.style import Style

pytestmark = STRICT

STRANGE = TensorDataset(torch.rand(6, 5), torch.arange(6) % 3)


class Mixed(Pictures):
    def __getitem__(self, i):
        return torch.rand(3, SIDE + i, SIDE), i % 3


def pairs(samples):
    return [image for image, _ in samples], torch.tensor([c for _, c in samples])


MISTAKES = {
    "no image": (dict(), DataLoader(STRANGE, 2), r"No images \[b c h w\].*Tensor\[4, 5\].*Batch\(image=\.\.\.\)"),
    "no such key": (dict(batch=Batch(4, image="scan")), loader(form="dict"), r"image='scan'.*a dict of image, label, box"),
    "no such position": (dict(batch=Batch(4, label=3)), loader(), r"label=3.*list of Tensor\[4, 3, 8, 8\], Tensor\[4\]"),
    "no such region": (dict(batch=Batch(4, regions="mask")), loader(form="dict"), r"regions='mask'.*image, label, box"),
    "a class out of range": (dict(target=3), loader(), r"Class 3 is out of range: the model has 3 outputs.*0 to 2"),
    "a negative class": (dict(target=-1), loader(), r"Class -1 is out of range.*0 to 2"),
    "a label out of range": (dict(), loader(classes=5), r"Class 3 is out of range: the model has 3 outputs"),
    "an index out of range": (dict(batch=[0, 12]), loader(), r"Sample 12 is out of range: the dataset has 12 samples, 0 to 11"),
    "a loader that is not there": (dict(batch=Batch(4, loader=2)), [loader(), loader()], r"loader=2.*validation.*0 to 1"),
    "a second loader of one": (dict(batch=Batch(4, loader=1)), loader(), r"loader=1.*validation loaders are 0 to 0"),
    "an unknown loader": (dict(batch=Batch(4, loader="c")), {"a": loader(), "b": loader()}, r"loader='c'.*'a', 'b'"),
    "images of unequal size": (dict(), DataLoader(Mixed(), 3, collate_fn=pairs), r"differ in size.*resize"),
    "more regions than images": (
        dict(batch=Batch(4, regions=lambda b: b["box"][:3])),
        loader(form="dict"),
        r"4 images and regions for 3",
    ),
    "regions of another kind": (
        dict(batch=Batch(4, regions=lambda b: b["box"][:, :3])),
        loader(form="dict"),
        r"boxes \[b 4\] or \[b n 4\], or masks \[b 8 8\]; got \(4, 3\)",
    ),
    "an unknown layer": (dict(layer="trnk"), loader(), r"no layer 'trnk'.*Did you mean 'trunk'.*trunk, last, relu, drop, head"),
    "the end of a layer's name": (dict(layer="0"), loader(), r"no layer '0'.*'trunk\.0'"),
    "a layer without a map": (dict(layer="head"), loader(), r"'head' returned shape \(4, 3\); expected a map.*relu 5x8x8"),
    "a layer that never runs": (dict(layer="spare"), loader(), r"'spare' did not run.*Layers with a map: relu 5x8x8"),
    "an output that is not there": (dict(output="logits"), loader(), r"no 'logits'; it is a Tensor of shape \(4, 3\)"),
    "a target of another length": (
        dict(target=torch.tensor([0, 1])),
        loader(),
        r"2 target classes were given for 4 samples",
    ),
}


class Spare(Net):
    """Has a layer that forward leaves out."""

    def __init__(self):
        super().__init__()
        self.spare = torch.nn.Conv2d(3, 3, 1)


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_said_at_the_first_look_of(name, tmp_path):
    options, val, said = MISTAKES[name]
    net = Spare() if "never" in name else Net()
    with pytest.raises(ValueError, match=said):
        fit(tmp_path, cam(**options), net, val=val, num_sanity_val_steps=0)


def test_a_mistake_is_raised_before_the_first_step(tmp_path):
    net = Net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(ValueError):
        fit(tmp_path, cam(layer="nowhere"), net)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


CONSTRUCTION = {
    "a method": (lambda: CAMCallback(method="gradcam"), r"No method 'gradcam'.*'grad_cam'.*Known: .*activation_mean"),
    "a second method": (lambda: CAMCallback(method=["cam", "lrp"]), r"No method 'lrp'.*Known"),
    "a metric": (lambda: CAMCallback(metrics=["energy"]), r"No metric 'energy'.*'energy_inside'"),
    "a target": (lambda: CAMCallback(target="lable"), r"No target 'lable'.*'label'"),
    "a target's option": (lambda: CAMCallback(target={"top_k": {"n": 3}}), r"top_k has no option 'n'.*It takes: k"),
    "a method's option": (
        lambda: CAMCallback(method={"activation_mean": {"channel": 1}}),
        r"activation_mean has no option 'channel'.*'channels'.*It takes: channels",
    ),
    "a metric's option": (
        lambda: CAMCallback(metrics=[{"energy_inside": {"regions": "a"}}]),
        r"no option 'regions'.*'region'",
    ),
    "an import path": (lambda: CAMCallback(method="nowhere.at_all"), r"'nowhere\.at_all' cannot be imported"),
    "an import path's end": (lambda: CAMCallback(method="math.sinus"), r"'math\.sinus' cannot be imported.*sinus"),
    "two methods in one": (lambda: CAMCallback(method={"cam": {}, "grad_cam": {}}), r"one entry"),
    "an empty list of targets": (lambda: CAMCallback(target=[]), r"list of targets is empty"),
    "a tag": (lambda: CAMCallback(tag="/cam"), r"tag='/cam'.*without a slash"),
    "a count": (lambda: CAMCallback(batch=0), r"samples=0.*at least 1"),
    "an option of the batch": (
        lambda: CAMCallback(batch={"per_clas": 2}),
        r"Batch has no option 'per_clas'.*'per_class'.*It takes: samples",
    ),
    "a count a class": (lambda: Batch(per_class=0), r"per_class=0.*at least 1"),
    "every n epochs": (lambda: Schedule(every_n_epochs=0), r"every_n_epochs=0.*at least 1"),
    "filmstrip_columns": (lambda: Style(filmstrip_columns=1), r"filmstrip_columns=1.*at least 2"),
}


@pytest.mark.parametrize("name", CONSTRUCTION)
def test_what_is_said_at_construction_of(name):
    make, said = CONSTRUCTION[name]
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.slow
def test_wrong_choices_are_refused_in_words_without_a_shape_checker():
    program = """
from lightning_cam import CAMCallback, Schedule
for wrong in (lambda: CAMCallback(on_error="ignore"), lambda: Schedule(step="batch"), lambda: CAMCallback(method=3)):
    try:
        wrong()
    except (ValueError, TypeError) as error:
        print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == "on_error='ignore': expected 'warn' or 'raise'."
    assert said[1] == "Schedule(step='batch'): expected one of auto, epoch, global_step."
    assert "A method is a name" in said[2] and len(said) == 3


def test_the_package_is_checked_by_the_import_hook():
    with pytest.raises(Exception, match="Type-check error"):
        lightning_cam.data.dataset.first_per_class(torch.zeros(2, 2, dtype=torch.long), 1)
