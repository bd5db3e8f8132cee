"""Boxes pinned and followed: of detectors by queries, as a dict or an object, and of torchvision's."""

from types import SimpleNamespace

import pytest
import torch
from compare import near
from nets import SMALL, STRICT, Pictures
from querying import QueryNet
from reference_targets import corners, followed, number, probability, surest
from torch import nn
from traces import model_state
from zoo import images

from lightning_cam import Batch, Watcher, explain, targets
from lightning_cam.figures.captions import captions
from lightning_cam.heat import min_max, resize
from lightning_cam.model.output import QueryOutput, find_logits
from lightning_cam.targets import find
from lightning_cam.targets.target import score_output

pytestmark = STRICT

WAYS = ["sigmoid", "softmax"]


def detection(**options):
    return {"detection": {"activation": "sigmoid", **options}}


def pins(net, x, activation):
    """The box and class that the surest query of each sample has, by the reference."""
    found = net(x)
    chosen = []
    for logits, boxes in zip(found["pred_logits"], found["pred_boxes"], strict=True):
        query, c = surest(logits, activation)
        chosen.append((corners(boxes[query]), c))
    return chosen


def by_hand(net, x, pinned, activation):
    """The number of each sample and its gradient at the backbone, one sample at a time."""
    scores, maps, gradients = [], [], []
    for image, (box, c) in zip(x, pinned, strict=True):
        a = net.backbone(image[None]).detach().requires_grad_()
        found = net.tail(a)
        score = number(found["pred_logits"][0], found["pred_boxes"][0], box, c, activation)
        (g,) = torch.autograd.grad(score, a)
        scores.append(score.detach())
        maps.append(a.detach()[0])
        gradients.append(g[0])
    return torch.stack(scores), torch.stack(maps), torch.stack(gradients)


@pytest.mark.parametrize("activation", WAYS)
def test_maps_are_the_gradient_of_the_query_followed(activation):
    net, x = QueryNet(), images()
    pinned = pins(net, x, activation)
    score, a, g = by_hand(net, x, pinned, activation)
    found = explain(net, x, target={"detection": {"activation": activation}})
    assert found.layer == "backbone"
    assert near(found.score, score) and found.score.shape == (3,)
    assert near(found.heat, torch.einsum("bc,bcuv->buv", g.mean((2, 3)), a))
    assert found.heat.abs().amax((1, 2)).min() > 1e-6
    assert isinstance(found.logits, QueryOutput) and not found.logits.logits.requires_grad
    as_object = nn.Module()
    as_object.net = net
    as_object.forward = lambda x: SimpleNamespace(logits=net(x)["pred_logits"], pred_boxes=net(x)["pred_boxes"])
    # as Hugging Face names them
    assert torch.equal(explain(as_object, x, target={"detection": {"activation": activation}}).heat, found.heat)


@pytest.mark.parametrize("activation", WAYS)
def test_score_cam_and_ablation_cam_are_those_of_one_sample_after_another(activation):
    net, x = QueryNet(), images()
    pinned = pins(net, x, activation)
    score, a, _ = by_hand(net, x, pinned, activation)
    scored, ablated, nobody = torch.zeros(3, 6).double(), torch.zeros(3, 6).double(), 0
    for i, (box, c) in enumerate(pinned):
        for channel in range(6):
            if a[i, channel].any():
                mask = min_max(resize(a[i, channel][None], x.shape[2:]))
                seen = net(mask[:, None] * x[i : i + 1])
                scored[i, channel] = number(seen["pred_logits"][0], seen["pred_boxes"][0], box, c, activation)
                nobody += followed(seen["pred_logits"][0], seen["pred_boxes"][0], box, c, activation) is None
            else:
                scored[i, channel] = -torch.inf
            rest = a[i].clone()
            rest[channel] = 0
            left = net.tail(rest[None])
            ablated[i, channel] = number(left["pred_logits"][0], left["pred_boxes"][0], box, c, activation)
    target = {"detection": {"activation": activation}}
    found = explain(net, x, layer="backbone", target=target, method={"score_cam": {"chunk": 4}})
    assert near(found.heat, torch.einsum("bc,bcuv->buv", scored.softmax(1), a))
    found = explain(net, x, layer="backbone", target=target, method="ablation_cam")
    weights = (score[:, None] - ablated) / score.abs()[:, None]
    assert near(found.heat, torch.einsum("bc,bcuv->buv", weights, a))


def test_boxes_that_are_named_are_followed_from_the_first_look_on():
    net, x = QueryNet(), images()
    found = net(x)
    boxes, classes = found["pred_boxes"][:, 1].detach() * 0.98, torch.tensor([2, 0, 1])
    pinned = [(corners(box), int(c)) for box, c in zip(boxes, classes, strict=True)]
    score, a, g = by_hand(net, x, pinned, "sigmoid")
    for given in (boxes, boxes.tolist()):
        named = explain(net, x, layer="backbone", target=detection(boxes=given, classes=classes.tolist()))
        assert near(named.score, score)
        assert near(named.heat, torch.einsum("bc,bcuv->buv", g.mean((2, 3)), a))


def test_several_boxes_a_sample_are_several_targets():
    net, x = QueryNet(), images()
    found = net(x)
    boxes, classes = found["pred_boxes"][:, :2].detach().clone(), torch.tensor([[0, 1], [2, 2], [1, 0]])
    boxes[1, 1] = torch.nan  # one box less
    several = explain(net, x, layer="backbone", target=detection(boxes=boxes, classes=classes))
    assert several.heat.shape == (3, 2, 4, 5)
    assert several.score.isnan().tolist() == [[False, False], [False, True], [False, False]]
    first = explain(net, x, layer="backbone", target=detection(boxes=boxes[:, 0], classes=classes[:, 0]))
    assert near(several.heat[:, 0], first.heat)
    best = explain(net, x, layer="backbone", target=detection(k=2))
    assert near(best.heat[:, 0], explain(net, x, layer="backbone", target=detection()).heat)
    assert not torch.equal(best.score[:, 0], best.score[:, 1])


def test_boxes_of_one_class_that_overlap_enough_are_pinned_once():
    logits = torch.tensor([[[3.0, -2], [2, -2], [-1, 1], [0, -5]]])
    boxes = torch.tensor([[[0.3, 0.3, 0.4, 0.4], [0.31, 0.3, 0.4, 0.4], [0.3, 0.3, 0.4, 0.4], [0.8, 0.8, 0.2, 0.2]]])
    output = QueryOutput(logits, boxes)
    choice = find(detection(k=4)).choose(output, None, None)
    assert choice.classes.tolist() == [[0, 1, 0, 0]]
    assert near(choice.probability[0, :3], torch.tensor([3.0, 1, 0]).sigmoid())
    assert choice.absent.tolist() == [[False, False, False, True]] and choice.lost.tolist() == [[False] * 4]


def output_of(logits, boxes):
    return QueryOutput(torch.tensor(logits, dtype=torch.float64), torch.tensor(boxes, dtype=torch.float64))


START = output_of([[[2.0, 0], [-1, 1]]], [[[0.3, 0.3, 0.4, 0.4], [0.7, 0.7, 0.4, 0.4]]])
# the first moved a little and weaker; another class, at the very place; a stronger one elsewhere
LATER = output_of(
    [[[-1.0, 3], [-2, 4], [5, 0]]], [[[0.32, 0.3, 0.4, 0.4], [0.3, 0.3, 0.4, 0.4], [0.7, 0.7, 0.4, 0.4]]]
)  # fmt: skip
GONE = output_of([[[5.0, 0], [4, 1]]], [[[0.6, 0.6, 0.4, 0.4], [0.7, 0.7, 0.4, 0.4]]])


def test_a_box_is_found_again_by_score_and_overlap_and_its_logit_told():
    target = find(detection())
    first = score_output(target, START, None, None)
    assert first.score.tolist() == [[2.0]] and first.choice.classes.tolist() == [[0]] and first.choice.placed
    assert near(first.choice.probability, torch.tensor([[2.0]]).double().sigmoid())
    later = score_output(target, LATER, None, None)
    # .269 + .905 (IoU of .38 by .4) against .119 + 1: the weaker, if it overlaps more, does not win
    assert later.score.tolist() == [[-1.0]] and not later.choice.lost.any()
    expected = followed(LATER.logits[0], LATER.boxes[0], corners(START.boxes[0, 0]), 0, "sigmoid")
    assert later.score.item() == LATER.logits[0, expected, 0]
    assert later.choice.probability.item() == pytest.approx(probability(LATER.logits[0, expected], 0, "sigmoid"))
    back = score_output(target, START, None, None)
    assert back.score.tolist() == [[2.0]]  # it is the box of the first look that is followed, not the last one found


def test_a_box_that_nothing_overlaps_enough_is_lost_and_is_found_again():
    target = find(detection())
    score_output(target, START, None, None)
    lost = score_output(target, GONE, None, None)
    assert lost.score.isnan().all() and lost.choice.lost.all() and lost.choice.absent.all()
    assert lost.choice.probability.isnan().all()
    assert not score_output(target, LATER, None, None).choice.lost.any()
    loose = find(detection(iou_threshold=0.01))
    score_output(loose, START, None, None)
    assert score_output(loose, GONE, None, None).score.tolist() == [[5.0]]


def test_a_changed_sample_without_the_box_counts_the_lowest_logit_and_has_no_gradient():
    target = find(detection())
    first = score_output(target, START, None, None)
    gone = QueryOutput(GONE.logits.clone().requires_grad_(), GONE.boxes)
    score = first.of_output(gone, slice(0, 1), 1)
    assert score.tolist() == [[4.0]]  # of the pinned class
    (g,) = torch.autograd.grad(score.sum(), gone.logits)
    assert not g.any()
    here = QueryOutput(LATER.logits.clone().requires_grad_(), LATER.boxes.clone().requires_grad_())
    g, of_boxes = torch.autograd.grad(first.of_output(here, slice(0, 1), 1).sum(), [here.logits, here.boxes], allow_unused=True)
    assert g.tolist() == [[[1, 0], [0, 0], [0, 0]]]
    assert of_boxes is None or not of_boxes.any()  # the overlap chooses, and is not told


def test_a_run_follows_the_box_of_its_first_look_and_says_when_it_is_lost(tmp_path):
    net = QueryNet().float()
    options = dict(target=detection(), batch=Batch(3, regions="box"), style=SMALL, on_error="raise")

    def watcher(name):
        return Watcher(net, Pictures(form="dict"), "backbone", folder=tmp_path / name, **options)

    watching = watcher("one")
    before = model_state(net)
    numbers = {}

    def look(watching, step, shift=0.0):
        net.anchor += shift
        (record,) = watching.look(step)
        net.anchor -= shift
        numbers[step] = record.values["energy_inside"]
        return record

    start = look(watching, 0)
    assert model_state(net) == before
    assert not start.lost.any() and start.score.isfinite().all() and start.heat.isfinite().all()
    near_by = look(watching, 1, 0.1)
    assert not near_by.lost.any() and torch.equal(near_by.score, start.score)  # the same query, whose box has moved
    gone = look(watching, 2, -4.0)
    assert gone.lost.all() and gone.score.isnan().all() and gone.heat.isnan().all()
    assert [int(numbers[step].isfinite().sum()) for step in range(3)][2] == 0 < int(numbers[0].isfinite().sum())
    assert gone.shown == start.shown == [0, 1, 2]  # a card each, also of what is lost
    told, lost = captions(watching.batch, start), captions(watching.batch, gone)
    chance = start.predictions.probability
    classes = start.predictions.classes
    assert [word.line for word in told] == [f"class_{int(classes[i])} {100 * float(chance[i]):.0f}%" for i in range(3)]
    assert [word.line for word in lost] == [f"class_{int(classes[i])}, lost" for i in range(3)]
    assert all(word.under.startswith("nothing is where it was pinned") for word in lost)
    state = watching.state_dict()
    torch.save(state, tmp_path / "state")
    resumed = watcher("two")
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for shift in (0.1, 0.3, -4.0):
        one, other = look(watching, 3, shift), look(resumed, 3, shift)
        assert torch.equal(one.heat.nan_to_num(), other.heat.nan_to_num()) and torch.equal(one.lost, other.lost)
    fresh = watcher("three")
    assert not look(fresh, 3, -4.0).lost.any()  # without the checkpoint another box is pinned


def test_what_was_pinned_belongs_to_its_samples():
    target = find(detection())
    net, x = QueryNet(), images()
    explain(net, x, target=target)
    with pytest.raises(ValueError, match="Boxes of 3 samples are pinned and the model was given 2"):
        explain(net, x[:2], target=target)
    explain(net, x[:2], target=target.anew())
    other = find(detection())
    other.load_state_dict(targets.similarity().state_dict())
    assert other.pinned is None


# torchvision's lists


def boxes_of(rows, scores, labels):
    return {"boxes": torch.tensor(rows).float(), "scores": torch.tensor(scores), "labels": torch.tensor(labels).long()}


NONE = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0).long()}


def test_torchvisions_boxes_are_followed_and_lost_likewise():
    target = find("detection")
    first = [boxes_of([[0, 0, 10, 10], [20, 20, 30, 30]], [0.9, 0.4], [1, 2]), NONE, boxes_of([[5, 5, 9, 9]], [0.3], [3])]
    later = [
        boxes_of([[20, 20, 30, 30], [0, 0, 10, 8]], [0.95, 0.2], [2, 1]),
        boxes_of([[1, 1, 4, 4]], [0.6], [2]),
        boxes_of([[5, 5, 9, 9]], [0.8], [1]),
    ]
    start = score_output(target, first, None, None)
    assert start.score[:, 0].tolist() == pytest.approx([1.9, float("nan"), 1.3], nan_ok=True)
    assert start.choice.lost[:, 0].tolist() == [False, False, False]
    assert start.choice.absent[:, 0].tolist() == [False, True, False]
    again = score_output(target, later, None, None)
    # followed though another is surer; found for the first time; of another class now
    assert again.score[:, 0].tolist() == pytest.approx([1.0, 1.6, float("nan")], nan_ok=True)
    assert again.choice.lost[:, 0].tolist() == [False, False, True]
    assert again.choice.classes[:, 0].tolist() == [1, 2, 3]
    assert again.choice.probability[:, 0].tolist() == pytest.approx([0.2, 0.6, float("nan")], nan_ok=True)
    resumed = find("detection")
    resumed.load_state_dict(target.state_dict())
    assert torch.equal(score_output(resumed, later, None, None).score.nan_to_num(), again.score.nan_to_num())
    # the first sample keeps its own, also while another still waits for one
    both = score_output(find({"detection": {"k": 2}}), [first[0], NONE, NONE], None, None)
    assert both.choice.absent.tolist() == [[False, False], [True, True], [True, True]]
    assert both.choice.classes.tolist() == [[1, 2], [0, 0], [0, 0]]


# which activation


class Configured(QueryNet):
    """As a Hugging Face detector tells how many labels it has."""

    def __init__(self, labels, k=3):
        super().__init__(k)
        self.config = SimpleNamespace(num_labels=labels)
        self.backbone.config = SimpleNamespace(num_labels=9)


def leaning(net):
    """Most queries say the last class."""
    with torch.no_grad():
        net.class_embed.bias[-1] += 20
    return net


def test_a_config_with_one_label_less_than_logits_means_no_object():
    x = images()
    soft, each = (explain(leaning(Configured(labels)), x, layer="backbone", target="detection") for labels in (2, 3))
    assert near(soft.heat, explain(leaning(QueryNet()), x, layer="backbone", target=detection(activation="softmax")).heat)
    assert near(each.heat, explain(leaning(QueryNet()), x, layer="backbone", target=detection()).heat)
    assert not near(soft.score, each.score)


@pytest.mark.usefixtures("unchecked")
def test_where_nobody_tells_and_the_last_class_prevails_the_line_is_asked_for():
    net, x = leaning(QueryNet()), images()
    line = r"write target=\{'detection': \{'activation': 'softmax'\}\}; if it is a class like the others, 'sigmoid'"
    with pytest.raises(ValueError, match=rf"Most queries are sure of the last of 3 classes.*{line}"):
        explain(net, x, layer="backbone", target="detection")
    for activation in WAYS:
        explain(net, x, layer="backbone", target={"detection": {"activation": activation}})
    explain(leaning(QueryNet(k=1)), x, layer="backbone", target="detection")  # a single class is no question
    with pytest.raises(ValueError, match="one logit a query leaves none for 'no object'; write 'sigmoid'"):
        explain(QueryNet(k=1), x, layer="backbone", target=detection(activation="softmax"))


# refusals


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("target", ["predicted", "label", "positives", 1, "log_probability", "binary", "value", "segment"])
def test_targets_of_classes_name_the_line_for_a_box(target):
    net, x = QueryNet(), images()
    with pytest.raises(ValueError, match="boxes and logits of queries") as refused:
        explain(net, x, layer="backbone", target=target)
    if target not in ("positives", "binary", "value"):
        assert "Explain a box with target='detection'." in str(refused.value)
    assert "target='segment'" not in str(refused.value)
    explain(net, x, layer="backbone", target="detection")


@pytest.mark.usefixtures("unchecked")
def test_logits_of_queries_alone_name_the_line_too():
    net, x = QueryNet(), images()
    line = r"a box with target='detection' and without output=\.\.\."
    for target in ("predicted", 1):
        with pytest.raises(ValueError, match=line):
            explain(net, x, layer="backbone", target=target, output="pred_logits")
    with pytest.raises(ValueError, match=r"needs a dict of boxes.*or logits and boxes of queries.*got a Tensor"):
        explain(net, x, layer="backbone", target="detection", output="pred_logits")
    explain(net, x, layer="backbone", target="detection")


@pytest.mark.usefixtures("unchecked")
def test_boxes_in_pixels_are_refused_with_the_line():
    net, x = QueryNet(), images()
    height, width = x.shape[2:]
    pixels = torch.tensor([[1.0, 2, 6, 7]] * 3)
    classes = [0, 1, 2]
    line = (
        r"torch\.stack\(\[\(x0 \+ x1\) / 2 / width, \(y0 \+ y1\) / 2 / height, "
        r"\(x1 - x0\) / width, \(y1 - y0\) / height\], -1\)"
    )
    with pytest.raises(ValueError, match=rf"shares of the picture, 0 to 1; got \[1\.0, 2\.0, 6\.0, 7\.0\]\. .*{line}"):
        explain(net, x, layer="backbone", target=detection(boxes=pixels, classes=classes))
    x0, y0, x1, y1 = pixels.unbind(-1)
    shares = torch.stack([(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height], -1)
    target = find(detection(boxes=shares, classes=classes, iou_threshold=0.0))
    explain(net, x, layer="backbone", target=target)
    assert torch.allclose(target.pinned[0][:, 0] * torch.tensor([width, height] * 2), pixels.double(), atol=1e-5)
    wrong = [
        (dict(boxes=shares), "belong together"),
        (
            dict(boxes=shares[:2], classes=classes[:2]),
            r"boxes \(3, 4\) and classes \(3,\), or several: \(3, t, 4\)",
        ),
        (dict(k=0), "k=0.*1 or more"),
        (dict(activation="relu"), "activation='relu'.*'softmax' or 'sigmoid'"),
    ]
    for options, words in wrong:
        with pytest.raises(ValueError, match=words):
            explain(net, x, layer="backbone", target=detection(**options))


# what a model's output is


def test_logits_and_boxes_are_read_as_queries_only_together():
    logits, boxes = torch.zeros(2, 5, 3), torch.zeros(2, 5, 4)
    for output in ({"pred_logits": logits, "pred_boxes": boxes}, SimpleNamespace(logits=logits, pred_boxes=boxes)):
        found = find_logits(output, None)
        assert isinstance(found, QueryOutput) and found.logits is logits and found.boxes is boxes
    assert find_logits({"logits": logits, "pred_boxes": boxes[:1]}, None) is logits
    assert find_logits(SimpleNamespace(logits=logits), None) is logits
    assert find_logits({"pred_logits": logits, "pred_boxes": boxes}, "pred_boxes") is boxes
    nested = {"last": {"pred_logits": logits, "pred_boxes": boxes}}
    assert find(detection()).choose(find_logits(nested, "last"), None, None).classes.shape == (2, 1)


class Nested(nn.Module):
    """Built as Hugging Face's RF-DETR is: backbone and decoder in one part, the heads beside it."""

    def __init__(self, net):
        super().__init__()
        self.model = nn.Module()
        self.model.backbone = net.backbone
        self.model.decoder = net.transformer.decoder
        self.class_embed = net.class_embed
        self.tail = net.tail

    def forward(self, x):
        return self.tail(self.model.backbone(x))


def test_the_default_layer_is_the_backbones_last_whatever_is_read_as_a_map_behind_it():
    """Twenty queries are as many as the map has cells."""
    net, x = QueryNet(queries=20), images()
    found = explain(net, x, target=detection())
    assert found.layer == "backbone"
    assert explain(Nested(net), x, target=detection()).layer == "model.backbone"
    wrapped = nn.Module()
    wrapped.net = net
    wrapped.forward = lambda x: net(x)
    assert explain(wrapped, x, target=detection()).layer == "net.backbone"
