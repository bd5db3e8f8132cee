"""Fingerprints of samples: what they tell apart."""

import hashlib

import pytest
import torch

from lightning_cam.data.batch import FixedBatch
from lightning_cam.data.fingerprints import fingerprints


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


def test_a_batch_has_those_of_its_own_samples():
    images = torch.rand(3, 2, 4, 5)
    batch = FixedBatch(images)
    assert batch.fingerprints == fingerprints(images)
    assert batch.first(2).fingerprints == fingerprints(images)[:2]
