"""Targets of dense and detecting models, and of embeddings: a region, a box, a reference."""

import pytest
import torch
import torch.nn.functional as F
from aims import Dense, look
from compare import near
from zoo import gap_linear, gap_mlp, images

from lightning_cam import explain, targets
from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.heat import maximum
from lightning_cam.methods import grad_cam
from lightning_cam.targets import find


def by_hand(net, x, c, region):
    a = net.features(x).detach().requires_grad_()
    z = F.interpolate(net.head(a), x.shape[-2:], mode="bilinear")
    score = torch.stack([(z[i, int(c[i])] * region[i]).sum() for i in range(len(x))])
    (g,) = torch.autograd.grad(score.sum(), a)
    return score.detach(), torch.einsum("bc,bcuv->buv", g.mean((2, 3)), a.detach())


@pytest.mark.parametrize("wrap", [lambda z: {"out": z}, lambda z: z])
def test_a_segmentation_is_explained_over_a_region(wrap):
    net, x = Dense(wrap), images()
    z = net(x)
    said = (z["out"] if isinstance(z, dict) else z).argmax(1)
    label = torch.arange(3)[:, None, None].expand(3, 8, 10).contiguous()
    point, mask = torch.zeros_like(said).bool(), torch.rand(8, 10) > 0.5
    point[:, 3, 7] = True
    for where, region in [
        ("predicted", said == 2), ("label", label == 2), ("everywhere", said >= 0), ((3, 7), point),
        (mask, mask.expand(3, 8, 10)),
    ]:  # fmt: skip
        with open_session(net, ["features"]) as session:
            seen = session.forward(x, find({"segment": {"class_id": 2, "region": where}}), label)
            there = region.flatten(1).any(1)
            score, heat = by_hand(net, x, [2, 2, 2], region)
            assert torch.equal(seen.scores.score[:, 0].isnan(), ~there)
            assert near(seen.scores.score[there, 0], score[there])
            assert near(grad_cam(Seen(seen, "features"))[there], heat[there])
            again = Seen(seen, "features").rescore(2, image=x[:2])  # the region stays where it was
            if there[2]:
                assert near(again, (net(x[:2])["out"] if isinstance(z, dict) else net(x[:2]))[:, 2].mul(region[2]).sum((1, 2)))


def test_the_class_of_a_segmentation_is_the_commonest_but_the_background():
    z = torch.zeros(3, 4, 2, 3)
    z[0, 0], z[0, 2, 0, 0] = 1, 2  # background but for one place
    z[1, 0] = 1  # background only
    z[2, 3], z[2, 1, 0, :2] = 1, 2
    chosen = targets.segment().choose(z, None, None)
    assert chosen.classes.tolist() == [[2], [0], [3]]
    assert chosen.parts[1].sum((1, 2)).tolist() == [1, 6, 4]
    assert targets.segment(region=(0, 1)).choose(z, None, None).classes.tolist() == [[0], [0], [1]]
    assert targets.segment(background=None).choose(z, None, None).classes.tolist() == [[0], [0], [3]]
    ignored = torch.full((3, 2, 3), 255)
    ignored[0, 0, 0] = 1
    there = targets.segment(region="label").choose(z, ignored, None)
    assert there.classes.tolist()[0] == [1]
    assert there.absent.tolist() == [[False], [True], [True]]


@pytest.mark.parametrize("axis", [False, True])
def test_a_single_logit_is_explained_where_it_is_positive_or_its_label_is_one(axis):
    """As a binary segmentation gives it, whose label often has an axis of one channel."""
    z = torch.tensor([[[1.0, -2.0, 3.0]], [[-1.0, -1.0, -1.0]]])[:, None]
    label = torch.tensor([[[0.0, 1.0, 255.0]], [[1.0, 1.0, 0.0]]])
    for region, there, score in [
        ("predicted", [[1, 0, 1], [0, 0, 0]], [4.0, 0.0]),
        ("label", [[0, 1, 0], [1, 1, 0]], [-2.0, -2.0]),
        ("everywhere", [[1, 1, 1], [1, 1, 1]], [2.0, -3.0]),
    ]:
        target = targets.segment(region=region)
        choice = target.choose(z, label[:, None] if axis else label, None)
        assert choice.parts[1][:, 0].long().tolist() == there
        assert choice.classes.tolist() == [[0], [0]]
        assert choice.absent.tolist() == [[False], [region == "predicted"]]
        assert target.score(z, choice)[:, 0].tolist() == score


def test_a_reference_is_frozen_at_the_first_look_and_kept():
    net, x = gap_mlp(), images()
    first = net(x).detach()
    for name in ("similarity", "projection"):
        target = find(name)
        start = look(net, target)
        if name == "similarity":
            assert near(start.scores.score[:, 0], torch.ones(3, dtype=torch.float64))
            assert maximum(start.heat[:, 0].abs()).max() < 1e-12  # the cosine is at its maximum
        else:
            assert near(start.scores.score[:, 0], first.norm(dim=1))
            assert start.heat.abs().max() > 1e-3
        trained = gap_mlp(1)
        e = trained(x).detach()
        later = look(trained, target)
        measure = F.cosine_similarity(e, first) if name == "similarity" else (e * F.normalize(first, dim=1)).sum(1)
        assert near(later.scores.score[:, 0], measure)
        resumed = find(name)
        resumed.load_state_dict(target.state_dict())
        assert torch.equal(look(trained, resumed).heat, later.heat)
        assert near(look(trained, resumed.anew()).scores.score[:, 0], look(trained, find(name)).scores.score[:, 0])


def test_a_reference_given_is_a_linear_target_of_projection():
    net, x, r = gap_linear(), images(), torch.tensor([3.0, 0.0, -4.0, 0.0])
    seen = explain(net, x, target={"projection": {"reference": r}})
    assert near(seen.heat, 0.6 * explain(net, x, target=0).heat - 0.8 * explain(net, x, target=2).heat)
    with pytest.raises(ValueError, match=r"is \(2, 4\) and the embeddings are \(3, 4\)"):
        explain(net, x, target={"similarity": {"reference": torch.ones(2, 4)}})


def test_a_box_is_found_again_by_class_and_overlap():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [50, 50, 60, 60], [0, 0, 10, 10]], requires_grad=True)
    scores, labels = torch.tensor([0.9, 0.8, 0.95, 0.7], requires_grad=True), torch.tensor([1, 1, 2, 2])
    none = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.long)}
    found = [{"boxes": boxes, "scores": scores, "labels": labels}, none]
    target = targets.detection()
    chosen = target.choose(found, None, None)
    assert chosen.classes.tolist() == [[2], [0]]
    assert chosen.absent.tolist() == [[False], [True]]
    assert target.score(found, chosen).flatten().tolist() == pytest.approx([1.95, 0.0])

    def pinned(box, label):
        target = targets.detection(boxes=[box], classes=[label])
        return target.score(found[:1], target.choose(found[:1], None, None)).flatten()

    score = pinned([0, 0, 10, 8], 1)
    assert score.tolist() == pytest.approx([1.8])
    (g,) = torch.autograd.grad(score.sum(), scores)
    assert g.tolist() == [0, 1, 0, 0]
    assert pinned([0, 0, 10, 10], 2).tolist() == pytest.approx([1.7])  # a better box of another class is there
    assert pinned([80, 80, 90, 90], 1).tolist() == [0]


def test_a_torchvision_detector_is_explained():
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn as detector

    net = detector(weights=None, weights_backbone=None, num_classes=3, box_score_thresh=0.0, min_size=64, max_size=96).eval()
    x = torch.rand(2, 3, 64, 96)
    seen = explain(net, x, layer="backbone.body.16", target="detection", output=lambda found: found)
    assert seen.heat.ndim == 3
    assert seen.score.shape == (2,)
    assert seen.heat.isfinite().any()
