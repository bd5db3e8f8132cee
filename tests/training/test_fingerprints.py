"""Fingerprints of the watched samples: what they tell apart, and what a state without them does."""

import hashlib

import pytest
import torch
from nets import STRICT, Pictures, cam, fit
from plain import batch, plain_net, watcher

from lightning_cam.training.fingerprints import Fingerprints, fingerprints
from lightning_cam.training.notices import Notices

pytestmark = STRICT


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.bool])
def test_a_fingerprint_is_the_hash_of_a_samples_own_bytes(kind):
    images = (torch.rand(3, 2, 4, 5) * 2).to(kind)
    pixels = [bytes(image.clone().view(torch.uint8).flatten().tolist()) for image in images]
    expected = [hashlib.blake2b(values, digest_size=8).hexdigest() for values in pixels]
    assert list(fingerprints(images)) == expected
    assert fingerprints(images.to(memory_format=torch.channels_last)) == fingerprints(images)
    assert fingerprints(images.flip(0)) == fingerprints(images)[::-1]


def test_the_last_bit_of_a_pixel_makes_another_fingerprint():
    images = torch.rand(3, 2, 4, 5)
    other = images.clone()
    other[1, 1, 3, 4] = other[1, 1, 3, 4].nextafter(torch.tensor(2.0))
    one, two = fingerprints(images), fingerprints(other)
    assert [a == b for a, b in zip(one, two, strict=True)] == [True, False, True]


def follow(before, now):
    marks = Fingerprints.of({"samples": list(fingerprints(before))})
    marks.follow(now, Notices("warn"))
    assert marks.digests == fingerprints(now)  # from here on these are the run's


@pytest.mark.parametrize(("changed", "said"), [([0], "1 of 4"), ([1, 3], "2 of 4"), ([0, 1, 2, 3], "4 of 4")])
def test_other_samples_are_a_warning_that_counts_them(changed, said):
    images = torch.rand(4, 3, 8, 8)
    other = images.clone()
    other[changed] += 1
    with pytest.warns(UserWarning, match=rf"CAMCallback: {said} samples differ from those that this run watched before.*Batch"):
        follow(images, other)


@pytest.mark.parametrize("n", [2, 4])
def test_the_same_samples_are_no_warning_also_where_more_or_fewer_are_asked_for(n):
    images = torch.rand(4, 3, 8, 8)
    follow(images[:n], images)
    follow(images, images[:n])


def test_a_state_holds_them_after_the_first_look_and_loads_without_them():
    assert Fingerprints().state_dict() == {} and len(Fingerprints.of({})) == 0
    marks = Fingerprints()
    marks.follow(torch.rand(2, 3), Notices("warn"))
    state = marks.state_dict()
    assert list(state) == ["samples"] and [type(digest) for digest in state["samples"]] == [str, str]
    assert Fingerprints.of(state).digests == marks.digests


def test_a_watchers_state_grows_by_one_key_and_an_older_state_loads(tmp_path):
    net = plain_net()
    first = watcher(net, tmp_path)
    first.look(0)
    state = first.state_dict()
    assert state.pop("samples") == list(fingerprints(batch()[0]))
    assert set(state) == {"relu/grad_cam"}
    second = watcher(net, tmp_path, data=Pictures(), batch=[5, 6, 7, 8])
    second.load_state_dict(state)
    second.look(1)
    assert second.history["relu/grad_cam"].titles == ["0", "1"]


def test_a_watcher_that_goes_on_with_another_batch_is_told(tmp_path):
    net, (images, labels) = plain_net(), batch()
    first, second = watcher(net, tmp_path), watcher(net, tmp_path, data=(images.flip(0), labels.flip(0)))
    first.look(0)
    second.load_state_dict(first.state_dict())
    with pytest.warns(UserWarning, match="Watcher: 4 of 4 samples differ") as told:
        second.look(1)
        second.look(2)
    assert len(told) == 1


def test_a_test_of_other_samples_is_no_matter_of_the_run(tmp_path):
    from nets import Net, loader, trainer

    callback, net = cam(), Net()
    run = trainer(tmp_path, [callback])
    run.fit(net, loader(24, size=4), loader())
    marks = callback.watcher.fingerprints.digests
    run.test(net, loader(shuffle=False, classes=2), verbose=False)
    assert marks == callback.watcher.fingerprints.digests == fingerprints(Pictures().images[:4])


def test_a_second_run_begins_with_samples_of_its_own(tmp_path):
    callback = cam()
    fit(tmp_path, callback)
    fit(tmp_path, callback, val=torch.utils.data.DataLoader(Pictures(8, classes=2), 3))
    assert callback.watcher.fingerprints.digests == fingerprints(Pictures(8, classes=2).images[:4])
