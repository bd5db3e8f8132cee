"""Maps in few bits: how far a value may be off, and what stays exactly as it is."""

import math

import pytest
import torch

from lightning_cam.heat import condense
from lightning_cam.records.maps import CodedMaps, code, decode

BITS = {torch.int8: 252, torch.int16: 65532}


def slow_code(values, steps):
    """The codes of one map, value by value."""
    scale = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    codes = []
    for v in values:
        if math.isnan(v):
            codes.append(-steps - 2)
        elif math.isinf(v):
            codes.append(int(math.copysign(steps + 1, v)))
        else:
            codes.append(round(v / scale * steps) if scale else 0)
    return codes, scale


@pytest.mark.parametrize("sides", [(64,), (14, 14), (3, 4, 5)])
@pytest.mark.parametrize("count", [2, 120])
def test_values_are_off_by_half_a_step_at_most_and_keep_their_sign(sides, count):
    heat = torch.randn(count, 2, *sides, dtype=torch.float64) * 10.0 ** torch.randint(-30, 30, (count, 2, *[1] * len(sides)))
    heat.flatten()[::7] = 0
    coded = code(heat)
    assert coded.codes.dtype == (torch.int16 if heat.numel() <= 8192 else torch.int8)
    back = decode(coded)
    largest = heat.flatten(2).abs().amax(2)
    error = (back - heat).flatten(2).abs().amax(2)
    assert bool((error <= largest / BITS[coded.codes.dtype] * (1 + 1e-9)).all())
    assert bool((error > largest / BITS[coded.codes.dtype] * 0.5).any())  # the bound is no exaggeration
    assert bool((back * heat >= 0).all()) and bool((back[heat == 0] == 0).all())


@pytest.mark.parametrize("kind", BITS)
def test_codes_are_those_of_the_formula(kind):
    count = 3 if kind == torch.int16 else 60
    heat = torch.randn(count, 1, 12, 12, dtype=torch.float64)
    heat[0, 0, 0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    heat[1] = 0
    heat[2] = torch.nan
    coded = code(heat)
    assert coded.codes.dtype == kind
    for values, codes, scale in zip(heat.flatten(1).tolist(), coded.codes.flatten(1).tolist(), coded.scale, strict=True):
        assert (codes, float(scale)) == slow_code(values, coded.steps)


@pytest.mark.parametrize("count", [1, 200])
def test_what_is_no_number_zero_or_the_largest_comes_back_as_it_was(count):
    values = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, 0.3, -0.7] + [0.1] * 58)
    heat = values.expand(count, 1, -1)
    back = decode(code(heat))
    assert torch.equal(back[..., :4].nan_to_num(5), heat[..., :4].nan_to_num(5)) and bool((back[..., 5] == heat[..., 5]).all())
    for same in (torch.zeros(count, 1, 64), torch.full((count, 1, 64), torch.nan), torch.full((count, 1, 64), -torch.inf)):
        assert torch.equal(decode(code(same)).nan_to_num(5), same.nan_to_num(5))


@pytest.mark.parametrize(
    ("kind", "back"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_no_precision_is_lost_beside_the_steps(kind, back):
    heat = torch.randn(2, 1, 5, 5).to(kind)
    decoded = decode(code(heat))
    assert decoded.dtype == back
    bound = heat.double().flatten(2).abs().amax(2)[..., None, None] / BITS[torch.int16] * 1.001
    assert bool(((decoded.double() - heat.double()).abs() <= bound).all())


def test_the_largest_and_smallest_magnitudes_survive():
    heat = torch.tensor([3e38, -1e38, 1e30]).reshape(1, 1, 3)
    assert torch.allclose(decode(code(heat)), heat, rtol=0, atol=3e38 / 65532 * 1.001)
    tiny = torch.tensor([1e-38, -5e-39, 0.0]).reshape(1, 1, 3)
    assert torch.allclose(decode(code(tiny)), tiny, rtol=0, atol=1e-38 / 65532 * 1.1)


@pytest.mark.parametrize("sides", [(224, 224), (9000,), (20, 20, 20)])
def test_large_maps_are_averaged_down(sides):
    heat = torch.randn(2, 2, *sides)
    expected = condense(heat.flatten(0, 1), 4096).unflatten(0, (2, 2))
    back = decode(code(heat))
    assert back.shape == expected.shape and back[0, 0].numel() <= 4096
    bound = expected.flatten(2).abs().amax(2) / BITS[torch.int8] * 1.001
    assert bool(((back - expected).flatten(2).abs().amax(2) <= bound).all())
    whole = torch.randn(1, 1, 64, 64)
    assert decode(code(whole)).shape == whole.shape


def test_codes_of_another_type_are_refused():
    with pytest.raises(ValueError, match=r"coded in 8 or 16 bits; got torch.int32"):
        decode(CodedMaps(torch.zeros(1, 1, 4, dtype=torch.int32), torch.ones(1, 1)))
