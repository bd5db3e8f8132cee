"""Deep feature factorization: exact cases, what concepts add to logits, and their picture."""

from itertools import pairwise

import pytest
import torch
from events import read_events
from lightning.pytorch.loggers import TensorBoardLogger
from nets import cam, fit
from torch import nn
from zoo import conv_head, flatten_linear, gap_linear, images

from lightning_cam import CAMCallback, Style
from lightning_cam.concepts import factorize, nmf
from lightning_cam.figures.concept_sheet import coloured, letter, palette


def parts(n=60, k=3, c=12, seed=0):
    """Sparse factors, so that there is one factorization only."""
    draw = torch.Generator().manual_seed(seed)
    w = torch.rand(n, k, generator=draw, dtype=torch.float64) * (torch.rand(n, k, generator=draw) > 0.5)
    h = torch.rand(k, c, generator=draw, dtype=torch.float64) * (torch.rand(k, c, generator=draw) > 0.5)
    w[:k], h[:, :k] = torch.eye(k), torch.eye(k)  # places and channels that belong to one part alone
    return w, h


@pytest.mark.parametrize("seed", range(3))
def test_what_has_an_exact_factorization_is_reconstructed_and_its_parts_found(seed):
    w, h = parts(seed=seed)
    w2, h2 = nmf(w @ h, 3, steps=20000, tolerance=1e-9)
    assert (w2 @ h2 - w @ h).norm() < 1e-3 * (w @ h).norm()
    similar = (h / h.norm(dim=1, keepdim=True)) @ h2.T
    assert sorted(similar.argmax(1).tolist()) == [0, 1, 2]
    assert (similar.amax(1) > 0.999).all()


def test_one_concept_is_the_first_singular_pair():
    values = torch.rand(40, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    w, h = nmf(values, 1, tolerance=0.0)
    u, s, v = torch.linalg.svd(values, full_matrices=False)
    assert torch.allclose(w @ h, s[0] * u[:, :1] @ v[:1], rtol=1e-10, atol=0)


def test_factors_are_non_negative_of_length_one_and_in_order():
    values = torch.rand(50, 9, generator=torch.Generator().manual_seed(2))
    w, h = nmf(values, 4)
    assert (w >= 0).all()
    assert (h >= 0).all()
    assert torch.allclose(h.norm(dim=1), torch.ones(4))
    assert (w.norm(dim=0).diff() <= 0).all()


def test_more_steps_never_raise_the_error():
    values = torch.rand(50, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    errors = [(values - torch.matmul(*nmf(values, 3, steps=n, tolerance=0.0))).norm() for n in range(1, 60, 6)]
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(errors))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_unit_of_the_values_does_not_matter(scale):
    values = torch.rand(30, 6, generator=torch.Generator().manual_seed(4))
    w, h = nmf(values, 3)
    w2, h2 = nmf(values * scale, 3)
    assert torch.allclose(w2 / scale, w, rtol=1e-3, atol=1e-3)
    assert torch.allclose(h2, h, rtol=1e-3, atol=1e-3)


def test_it_is_deterministic_and_touches_no_global_random_state():
    values, state = torch.rand(30, 6), torch.get_rng_state()
    first = nmf(values, 3, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert all(torch.equal(a, b) for a, b in zip(first, nmf(values, 3, seed=5), strict=True))


def test_zeros_give_zeros():
    w, h = nmf(torch.zeros(20, 5), 2)
    assert not w.any()
    assert h.isfinite().all()


@pytest.mark.usefixtures("unchecked")
def test_mistakes_say_what_would_be_right():
    with pytest.raises(ValueError, match=r"concepts=7: expected 1 to 5, for 20 places and 5 channels"):
        nmf(torch.rand(20, 5), 7)
    with pytest.raises(ValueError, match="values >= 0"):
        nmf(torch.rand(20, 5) - 0.5, 2)
    with pytest.raises(ValueError, match=r"no layer 'feature'. Did you mean 'features'"):
        factorize(gap_linear(), images(), layer="feature")


@pytest.mark.parametrize(
    ("net", "bias"), [(gap_linear, lambda net: net.head[-1].bias), (conv_head, lambda net: net.head[1].bias)]
)
def test_concepts_of_a_layer_are_those_of_its_rectified_activation(net, bias):
    net, x = net(), images()
    found = factorize(net, x, concepts=6, layer="features")
    a = net.features(x).detach().relu()
    rebuilt = torch.einsum("bkuv,kc->bcuv", found.maps, found.vectors)
    assert found.maps.shape == (3, 6, 4, 5)
    assert abs((a - rebuilt).norm() / a.norm() - found.error) < 1e-9
    assert found.error < 0.05
    assert found.layer == "features"


def test_a_signed_layer_is_rectified():
    net, x = gap_linear(), images()
    found, rectified = (factorize(net, x, concepts=3, layer=layer) for layer in ("features.2", "features.3"))
    assert torch.allclose(found.maps, rectified.maps, rtol=1e-12, atol=0)
    assert torch.allclose(found.vectors, rectified.vectors, rtol=1e-12, atol=0)


def test_concepts_add_up_to_the_logits_less_their_bias():
    net, x = gap_linear(), images()
    found = factorize(net, x, concepts=6, layer="features")
    a, w = net.features(x).detach(), net.head[-1].weight.detach()
    rest = a - torch.einsum("bkuv,kc->bcuv", found.maps, found.vectors)
    expected = net(x).detach() - net.head[-1].bias.detach() - rest.mean((2, 3)) @ w.T
    assert torch.allclose(torch.einsum("bkuv,ky->by", found.maps, found.scores) / 20, expected, rtol=0, atol=1e-12)


def test_heads_that_are_not_linear_in_the_channels_have_no_scores():
    assert factorize(flatten_linear(), images(), concepts=2, layer="features").scores is None
    assert factorize(conv_head(), images(), concepts=2, layer="features").scores.shape == (2, 4)


def test_the_model_and_its_modes_are_left_alone():
    net, x = gap_linear().train(), images()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    factorize(net, x)
    assert net.training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())


def test_shares_are_comparable_between_images():
    found = factorize(gap_linear(), images(), concepts=3, layer="features")
    assert torch.allclose(found.shares.transpose(0, 1).flatten(1).amax(1), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(found.shares[0, 1] / found.shares[2, 1].amax(), found.maps[0, 1] / found.maps[2, 1].amax())


def test_a_picture_shows_every_concept_in_its_own_colour():
    k, colours = 4, palette(4)
    shares = torch.zeros(1, k, 2, 2)
    shares[0, range(k), [0, 0, 1, 1], [0, 1, 0, 1]] = 1
    drawn = coloured(torch.full((1, 3, 40, 40), 255, dtype=torch.uint8), shares)
    for j, (y, x) in enumerate([(2, 2), (2, 37), (37, 2), (37, 37)]):
        assert (drawn[0, :, y, x].float() - (0.92 * colours[j].float() + 0.08 * 255)).abs().max() <= 1
    assert (coloured(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 2, 2, 2)) == 64).all()  # no concept: grey


@pytest.mark.parametrize("k", [1, 5, 9, 28])
def test_colours_and_letters_are_distinct(k):
    assert len({tuple(c) for c in palette(k).tolist()}) == k
    assert len({letter(j) for j in range(k)}) == k


def test_the_picture_fits_any_number_of_concepts_and_images():
    net, x = gap_linear().float(), images().float().sigmoid()
    for k, b in ((1, 1), (4, 3), (6, 2)):
        found = factorize(net, x[:b], concepts=k, layer="features")
        picture = found.picture(Style(tile=64), classes={0: "a very long name of a class that has to be cut", 1: "cat"})
        assert picture.dtype == torch.uint8
        assert picture.shape[0] == 3
        assert min(picture.shape[1:]) > 64
    assert (
        factorize(nn.Sequential(net), x, concepts=2, layer="0.features").picture(Style(tile=64), ["a", "b", "c"]).shape[0] == 3
    )


# ---- over a run --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_concepts_that_have_a_start_keep_their_order(seed):
    w, h = parts(seed=seed)
    w = w * torch.tensor([1.0, 2, 3], dtype=torch.float64)
    _, first = nmf(w @ h, 3)
    _, second = nmf(w @ h, 3, start=first[[1, 2, 0]], seed=5)
    assert (second - first[[1, 2, 0]]).abs().max() < 0.02
    weaker = w * torch.tensor([5.0, 1, 1], dtype=torch.float64)  # another order by strength
    _, later = nmf(weaker @ h, 3, start=first, seed=5)
    assert (later - first).abs().max() < 0.02
    assert (nmf(weaker @ h, 3)[1] - first).abs().max() > 0.2


def test_the_callback_draws_the_concepts_of_its_batch(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    one = cam(["trunk.0", "relu"], concepts=2)
    fit(tmp_path, one, logger=logger)
    events = read_events(logger.log_dir)
    for layer in ("trunk.0", "relu"):
        assert len(events.Images(f"cam/{layer}/concepts")) == 3  # the baseline and two epochs
    kept = one.state_dict()["concepts"]
    assert {layer: tuple(vectors.shape) for layer, vectors in kept.items()} == {"trunk.0": (2, 4), "relu": (2, 5)}
    other = cam(["trunk.0", "relu"], concepts=2)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.watcher.memory.concepts.vectors["relu"], kept["relu"])
    assert "concepts" not in cam().state_dict()


def test_more_concepts_than_channels_are_told_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match=r"concepts=9: expected 1 to 5"):
        fit(tmp_path, cam("relu", concepts=9))
    with pytest.raises(ValueError, match="concepts=-1: expected how many are drawn, 0 for none"):
        CAMCallback(concepts=-1)
