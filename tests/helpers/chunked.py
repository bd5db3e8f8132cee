"""Runs of many samples of which few are shown, and whether what they tell is what one chunk tells. b batch."""

import torch
from nets import Pictures
from plain import plain_net, watcher

from lightning_cam import Batch

N, SHOWN, CHUNK = 40, 8, 16


def boxed(n=N, **options):
    return Pictures(n, form="dict", **options)


def disturb(net, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)


def in_double(data):
    data.images = data.images.double()
    return data


def looks(folder, pictures, *, net=None, data=None, looks=2, n=N, regions="box", **options):
    """The Records of a run's looks, between which the weights move, and its Watcher."""
    net = plain_net().double() if net is None else net
    data = in_double(boxed(n)) if data is None else data
    watching = watcher(net, folder, data, batch=Batch(samples=n, pictures=pictures, regions=regions), **options)
    told = []
    for i in range(looks):
        told.append(watching.look(i))
        disturb(net, i)
    return told, watching


def near(one, other, tolerance=1e-10):
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)


def assert_same(ones, others, tolerance=1e-10):
    """Whether two lists of Records are the same in all that they hold."""
    assert [record.tag for record in ones] == [record.tag for record in others] != []
    for one, other in zip(ones, others, strict=True):
        assert list(one.values) == list(other.values)
        tensors = {"heat", "score", "strength", "against"}
        for name in tensors:
            assert near(getattr(one, name), getattr(other, name), tolerance), name
        for name in one.values:
            assert near(one.values[name], other.values[name], tolerance), name
        for name in ("absent", "lost"):
            pair = getattr(one, name), getattr(other, name)
            assert torch.equal(*pair) if None not in pair else pair == (None, None), name
        assert (one.on_map is None) == (other.on_map is None)
        for name, told in vars(one.predictions).items():
            assert near(told.double(), getattr(other.predictions, name).double(), max(tolerance, 1e-6)), name
        assert (one.note, one.target_names, one.title) == (other.note, other.target_names, other.title)
