"""Points become discs of a share of the image's longer side, over any number of sides."""

from itertools import product

import pytest
import torch
from nets import SIDE, STRICT, cam, fit, loader
from reference_outlines import in_disc

import lightning_cam
from lightning_cam import Batch, Points
from lightning_cam.data.collated import read_batch

pytestmark = STRICT

SIZES = {1: (11,), 2: (7, 10), 3: (4, 6, 8)}


def drawn_points(sides, n=3):
    generator = torch.Generator().manual_seed(sides)
    # some a little outside
    points = torch.rand(2, n, sides, generator=generator) * (torch.tensor(SIZES[sides][::-1]) + 2) - 1
    points[1, 0] = torch.nan
    return points


@pytest.mark.parametrize("radius", [0.0, 0.13, 0.3])
@pytest.mark.parametrize("sides", SIZES)
def test_a_disc_holds_the_places_within_its_radius(sides, radius):
    size = SIZES[sides]
    points = drawn_points(sides)
    mask = Points("x", radius).to_mask(points, torch.zeros(2, 1, *size))
    for i, place in product(range(2), product(*map(range, size))):
        expected = any(in_disc(place, point, radius * max(size)) for point in points[i].tolist())
        assert bool(mask[i][place]) == expected
    assert mask.any()


@pytest.mark.parametrize("sides", SIZES)
def test_a_point_is_never_lost_between_centres(sides):
    size = SIZES[sides]
    point = torch.tensor([[1.99, 2.01, 3.0][:sides]])
    mask = Points("x", 0.0).to_mask(point, torch.zeros(1, 1, *size))
    assert mask[0].nonzero().tolist() == [[1, 2, 3][:sides][::-1]]


def test_tensors_and_lists_of_unequal_length_say_the_same():
    images = torch.zeros(2, 3, 7, 10)
    points = drawn_points(2)
    mask = Points("x").to_mask(points, images)
    assert torch.equal(Points("x").to_mask([points[0], points[1, 1:]], images), mask)
    assert torch.equal(Points("x").to_mask([points[0].tolist(), points[1, 1:].tolist()], images), mask)
    one = Points("x").to_mask(points[:, 1], images)
    assert torch.equal(Points("x").to_mask([points[0, 1], points[1, 1]], images), one)
    assert not Points("x").to_mask([[], []], images).any()
    assert not Points("x").to_mask(torch.full((2, 2), torch.nan), images).any()


def test_points_reach_a_run_under_their_name(tmp_path):
    kept = []

    def keep(heat, look):
        kept.append({name: mask.clone() for name, mask in look.regions.items()})
        return torch.zeros(len(heat))

    # the upper left corners of the boxes
    regions = {"corner": Points(lambda batch: batch["box"][:, :2] + 0.5, radius=0.0), "box": "box"}
    fit(tmp_path, cam(batch=Batch(3, regions=regions), metrics=[keep]), val=loader(form="dict"), train=loader(form="dict"))
    corner = kept[0]["corner"]
    assert corner.shape == (3, SIDE, SIDE) and set(kept[0]) == {"corner", "box"}
    assert corner.nonzero().tolist() == [[i, 0, i] for i in range(3)]


def test_points_may_be_a_single_region_and_are_read_out_of_what_is_shown():
    batch = {"image": torch.zeros(2, 1, 8, 8), "eye": torch.tensor([[1.5, 2.5], [7.5, 0.5]])}
    masks = read_batch(batch, Batch(regions=Points("eye", 0.0))).regions
    assert masks["object"].nonzero().tolist() == [[0, 2, 1], [1, 0, 7]]
    assert lightning_cam.Points is Points


REFUSED = {
    "another size": (torch.zeros(2, 3), r"\[b 2\] or \[b n 2\].*got \(2, 3\).*\(x, y\)"),
    "too many": (torch.zeros(3, 2), "2 images and points for 3"),
    "words": ("ab", r"got a str"),
    "a list of others": ([torch.zeros(2, 2), torch.zeros(1, 3)], r"a list with \(1, 3\) of a sample"),
    "nothing": ([], "the list of them is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_said_of(name):
    points, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        Points("eye").to_mask(points, torch.zeros(2, 1, 8, 8))


def test_the_line_that_is_advised_runs():
    batch = {"target": [{"keypoints": torch.tensor([[1.5, 2.5]])}, {"keypoints": torch.zeros(0, 2)}]}
    with pytest.raises(ValueError, match=r"Points\(lambda batch: \[sample\['keypoints'\] for sample in batch\['target'\]\]\)"):
        Points("target").to_mask(batch["target"], torch.zeros(2, 1, 8, 8))
    advised = Points(lambda batch: [sample["keypoints"] for sample in batch["target"]], 0.0)
    assert advised.to_mask(advised.key(batch), torch.zeros(2, 1, 8, 8)).nonzero().tolist() == [[0, 2, 1]]


@pytest.mark.parametrize("radius", [-0.1, 1.5, float("nan")])
def test_a_radius_is_a_share(radius):
    with pytest.raises(ValueError, match=r"Points\(radius=.*0 to 1, such as radius=0.05"):
        Points("eye", radius)
