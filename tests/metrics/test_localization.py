"""Energy inside a region: exact values, and what is undefined."""

from math import prod

import pytest
import reference_localization
import reference_regions
import torch
from plain import watcher
from regions import looked, within_five_sigma
from torch import nan, nn

from lightning_cam import Batch, metrics
from lightning_cam.capture.forward import Forward
from lightning_cam.capture.seen import Seen
from lightning_cam.data.regions import to_mask
from lightning_cam.heat import resize
from lightning_cam.model.trace import Calls


def seen(**regions):
    blank = torch.zeros(len(next(iter(regions.values()), [0])), 1)
    return Seen(Forward(None, blank, blank, None, {}, Calls(), regions=regions), "layer")


def box(x0, y0, x1, y1, h=8, w=8):
    mask = torch.zeros(1, h, w, dtype=torch.bool)
    mask[:, y0:y1, x0:x1] = True
    return mask


def test_a_map_without_preference_scores_the_regions_area():
    assert metrics.energy_inside(torch.ones(1, 4, 4), seen(a=box(0, 0, 4, 2))).item() == pytest.approx(8 / 64)


def test_all_energy_inside_is_one_and_outside_zero():
    heat = torch.zeros(1, 8, 8)
    heat[0, 2:4, 2:4] = 5
    assert metrics.energy_inside(heat, seen(a=box(2, 2, 4, 4))).item() == 1
    assert metrics.energy_inside(heat, seen(a=box(5, 5, 8, 8))).item() == 0


def test_only_positive_evidence_counts_and_scale_does_not():
    heat = torch.tensor([[[4.0, -100.0], [0.0, 4.0]]])
    left = metrics.energy_inside(heat, seen(a=box(0, 0, 1, 2, 2, 2)))
    assert left.item() == pytest.approx(0.5)
    assert torch.allclose(metrics.energy_inside(heat * 7, seen(a=box(0, 0, 1, 2, 2, 2))), left)


def test_moving_energy_inside_never_lowers_it():
    generator = torch.Generator().manual_seed(0)
    heat, mask = torch.rand(1, 8, 8, generator=generator), box(1, 1, 5, 6)
    before = metrics.energy_inside(heat, seen(a=mask))
    moved = heat.clone()
    moved[0, 7, 7], moved[0, 2, 2] = 0, heat[0, 2, 2] + heat[0, 7, 7]
    assert metrics.energy_inside(moved, seen(a=mask)) > before


def test_undefined_is_nan():
    flat = torch.zeros(1, 4, 4)
    assert metrics.energy_inside(flat, seen(a=box(0, 0, 4, 4))).isnan().all()
    assert metrics.energy_inside(-flat - 1, seen(a=box(0, 0, 4, 4))).isnan().all()
    assert metrics.energy_inside(flat + 1, seen(a=box(0, 0, 0, 0))).isnan().all()
    assert metrics.energy_inside(flat + 1, seen()).isnan().all()
    assert metrics.energy_inside(flat + nan, seen(a=box(0, 0, 4, 4))).isnan().all()


def test_regions_are_chosen_by_name_or_united():
    heat = torch.ones(1, 8, 8)
    both = seen(a=box(0, 0, 4, 4), b=box(4, 4, 8, 8))
    assert metrics.energy_inside(heat, both, region="a").item() == pytest.approx(0.25)
    assert metrics.energy_inside(heat, both).item() == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"no region 'bb'. Did you mean 'b'.*Known: a, b"):
        metrics.energy_inside(heat, both, region="bb")


def test_boxes_are_half_open_in_pixels():
    images = torch.zeros(2, 3, 8, 10)
    mask = to_mask(torch.tensor([[1.0, 2.0, 4.0, 5.0], [0.0, 0.0, 10.0, 8.0]]), images)
    assert mask[0].sum() == 9
    assert mask[0, 2:5, 1:4].all()
    assert mask[1].all()


def test_several_boxes_are_united_and_rows_of_nan_ignored():
    images = torch.zeros(2, 3, 8, 10)
    rows = torch.tensor([[[0, 0, 2, 2], [1, 1, 3, 3]], [[0, 0, 1, 1], [nan, nan, nan, nan]]])
    assert to_mask(rows, images).sum((1, 2)).tolist() == [7, 1]
    ragged = [torch.tensor([[0, 0, 2, 2], [1, 1, 3, 3]]), torch.zeros(0, 4)]
    assert to_mask(ragged, images).sum((1, 2)).tolist() == [7, 0]


def test_masks_are_taken_as_they_are():
    images = torch.zeros(2, 3, 8, 10)
    mask = torch.rand(2, 8, 10) > 0.5
    assert torch.equal(to_mask(mask, images), mask)
    assert torch.equal(to_mask(mask[:, None].float(), images), mask)
    with pytest.raises(ValueError, match=r"boxes \[b 4\] or \[b n 4\], or masks \[b 8 10\]; got \(2, 5\)"):
        to_mask(torch.zeros(2, 5), images)
    with pytest.raises(ValueError, match="2 images and regions for 3"):
        to_mask(torch.zeros(3, 4), images)


# signals and volumes beside pictures

SIZES = {1: ((5,), (13,)), 2: ((3, 4), (7, 9)), 3: ((2, 3, 4), (5, 4, 7))}


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("sides", SIZES)
def test_energy_inside_equals_the_slow_reference_over_any_number_of_sides(sides):
    cells, size = SIZES[sides]
    for seed in range(3):
        heat, mask = drawn(2, *cells, seed=seed), drawn(2, *size, seed=seed + 9) > 0.3
        expected = [reference_regions.energy_inside(heat[i], mask[i]) for i in range(2)]
        assert metrics.energy_inside(heat, seen(a=mask)).tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("sides", SIZES)
def test_what_must_hold_of_energy_inside_over_any_number_of_sides(sides):
    cells, size = SIZES[sides]
    a, b = drawn(2, *size, seed=1) > -0.2, drawn(2, *size, seed=2) > 0
    heat = drawn(2, *cells, seed=3)
    uniform = metrics.energy_inside(torch.ones_like(heat), seen(a=a))
    assert uniform.tolist() == pytest.approx([int(mask.sum()) / prod(size) for mask in a], rel=1e-10)
    assert metrics.energy_inside(heat, seen(a=torch.ones_like(a))).tolist() == pytest.approx([1, 1], rel=1e-12)
    parts = [metrics.energy_inside(heat, seen(a=part)) for part in (a, b, a & b)]
    united = metrics.energy_inside(heat, seen(a=a, b=b))
    assert united.tolist() == pytest.approx((parts[0] + parts[1] - parts[2]).tolist(), rel=1e-10)
    assert metrics.energy_inside(heat, seen(a=a & False)).isnan().all()


class Pooled(nn.Module):
    """A convolution over so many sides, pooled, and a linear head."""

    def __init__(self, sides):
        super().__init__()
        torch.manual_seed(0)
        self.conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[sides - 1](1, 4, 3, 2, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.conv(x).relu().flatten(2).mean(2))


@pytest.mark.parametrize("form", ["mask", "mask with a channel", "box"])
@pytest.mark.parametrize("sides", SIZES)
def test_a_look_at_signals_pictures_and_volumes_measures_the_energy_in_their_regions(sides, form, tmp_path):
    size = (16, 16, 16)[:sides]
    x = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(4))
    box = torch.tensor([[2] * sides + [9] * sides, [0] * sides + [16] * sides])
    mask = to_mask(box, x)
    region = {"mask": mask, "mask with a channel": mask[:, None].float(), "box": box}[form]
    data = {"image": x, "label": torch.tensor([0, 2]), "where": region}
    (record,) = watcher(Pooled(sides), tmp_path, data, layer="conv", batch=Batch(regions="where")).look(0)
    value = record.values["energy_inside"][:, 0]
    expected = [reference_regions.energy_inside(record.heat[i, 0].double(), mask[i]) for i in range(2)]
    assert value.tolist() == pytest.approx(expected, rel=1e-5)
    assert 0 < value[0] < 1 and value[1] == pytest.approx(1)


@pytest.mark.usefixtures("unchecked")
def test_a_map_of_fewer_sides_than_the_image_is_refused_with_a_line_that_works(tmp_path):
    x, mask = torch.rand(2, 1, 8, 8, 8), torch.ones(2, 8, 8, 8).bool()
    data = {"image": x, "label": torch.tensor([0, 2]), "where": mask}

    def flat(seen):
        return seen.activation.mean((1, 2))

    def watching(method):
        return watcher(Pooled(3), tmp_path, data, layer="conv", method=method, batch=Batch(regions="where"))

    message = r"at 'conv' the map is \(2, 4, 4\) and the region \(2, 8, 8, 8\).*layer=\.\.\.,.*method='grad_cam'"
    with pytest.raises(ValueError, match=message):
        watching(flat).look(0)
    assert watching("grad_cam").look(0)[0].values["energy_inside"].tolist() == [[pytest.approx(1)]] * 2


# enrichment and rank


@pytest.mark.parametrize("sides", SIZES)
def test_enrichment_is_the_energy_over_the_area(sides):
    cells, size = SIZES[sides]
    heat, mask = drawn(3, *cells), drawn(3, *size, seed=2) > 0.3
    energy = [reference_regions.energy_inside(heat[i], mask[i]) for i in range(3)]
    expected = [energy[i] * prod(size) / int(mask[i].sum()) for i in range(3)]
    assert metrics.enrichment(heat, seen(a=mask)).tolist() == pytest.approx(expected, rel=1e-10)


def test_enrichment_is_one_of_a_flat_map_and_of_the_whole_image():
    """Also of a batch of two: the size of an image is not read from the size of the batch."""
    masks = torch.cat([box(0, 0, 4, 2), box(1, 1, 7, 8)])
    assert metrics.enrichment(torch.ones(2, 4, 4), seen(a=masks)).tolist() == pytest.approx([1, 1])
    assert metrics.enrichment(drawn(2, 4, 4), seen(a=masks | True)).tolist() == [1, 1]
    assert metrics.enrichment(drawn(2, 4, 4), seen(a=masks & False)).isnan().all()
    concentrated = torch.zeros(1, 8, 8)
    concentrated[0, 1, 1] = 3
    assert metrics.enrichment(concentrated, seen(a=box(0, 0, 2, 2))).item() == pytest.approx(16)
    assert metrics.find("enrichment").facts["range"] == (0.0, None)


@pytest.mark.parametrize("sides", SIZES)
def test_relevance_rank_equals_the_slow_reference_over_any_number_of_sides(sides):
    cells, size = SIZES[sides]
    for shape, decimals in ((cells, 8), (size, 0)):  # enlarged, and of the image's size with many ties
        heat, mask = drawn(4, *shape, seed=1).round(decimals=decimals), drawn(4, *size, seed=2) > 0.3
        large = resize(heat, size)
        expected = [reference_localization.relevance_rank(large[i], mask[i]) for i in range(4)]
        assert metrics.relevance_rank(heat, seen(a=mask)).tolist() == pytest.approx(expected, rel=1e-10)


def test_relevance_rank_reads_the_order_of_the_signed_map_alone():
    heat, mask = drawn(4, 6, 6), drawn(4, 6, 6, seed=1) > 0.3
    value = metrics.relevance_rank(heat, seen(a=mask))
    for changed in (heat * 3 - 7, heat**3, heat.exp()):
        assert torch.equal(metrics.relevance_rank(changed, seen(a=mask)), value)
    assert metrics.relevance_rank(mask.double() - 5, seen(a=mask)).tolist() == [1, 1, 1, 1]


def test_places_tied_at_the_last_rank_share_the_room_that_is_left():
    heat = torch.tensor([[5.0, 1.0, 1.0, 1.0, 1.0, 0.0]])
    inside = torch.tensor([[True, True, False, False, False, False]])
    assert metrics.relevance_rank(heat, seen(a=inside)).item() == pytest.approx((1 + 1 / 4) / 2)
    assert metrics.relevance_rank(heat.flip(1), seen(a=inside.flip(1))).item() == pytest.approx(0.625)


def test_random_maps_score_the_area():
    """.214 of the image, as published for noise of 28 by 28."""
    generator = torch.Generator().manual_seed(0)
    mask = box(2, 3, 14, 17, 28, 28)
    heat = torch.rand(2000, 28, 28, generator=generator, dtype=torch.float64)
    look = looked(a=mask.expand(2000, -1, -1))
    for name in ("energy_inside", "relevance_rank"):
        entry = metrics.find(name)
        expected = float(entry.facts["floor"](look)[0])
        assert expected == pytest.approx(168 / 784)
        assert within_five_sigma(entry.function(heat, look), expected)
    assert within_five_sigma(metrics.enrichment(heat, look), metrics.find("enrichment").facts["floor"])
