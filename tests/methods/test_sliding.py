"""SESS against windows cut, explained, weighed and put back one by one."""

import pytest
import reference_gradient  # noqa: F401  references are bound by import
import torch
import torch.nn.functional as F
from compare import close
from maps import CLASSES, heat
from reference import REFERENCES
from zoo import ZOO, gap_linear, images

from lightning_cam import explain
from lightning_cam.methods import sess


def slow(net, x, method, scales, step):
    """One image, one scale, one window at a time."""
    found, (h, w) = [], x.shape[2:]
    for image, c in zip(x, CLASSES, strict=True):
        total, count = torch.zeros(h, w).double(), torch.zeros(h, w).double()
        for i in range(scales):
            size = round(h * (1 + i * step)), round(w * (1 + i * step))
            large = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0] if i else image
            top = 0
            while True:
                left = 0
                while True:
                    y, x0 = min(top, size[0] - h), min(left, size[1] - w)
                    window = large[:, y : y + h, x0 : x0 + w]
                    one = REFERENCES[method](net.case(), window[None], [c])[0].clamp(min=0)
                    one = one / one.max() if one.max() > 0 else one
                    p = float(net(window[None]).softmax(1)[0, c].detach())
                    canvas = torch.zeros(size).double()
                    canvas[y : y + h, x0 : x0 + w] = p * F.interpolate(one[None, None], (h, w), mode="bilinear")[0, 0]
                    placed = F.interpolate(canvas[None, None], (h, w), mode="bilinear")[0, 0]
                    total, count = total + placed, count + (placed > 0)
                    left += w
                    if left >= size[1]:
                        break
                top += h
                if top >= size[0]:
                    break
        found.append(torch.where(count > 0, total / count.clamp(min=1), 0.0))
    return torch.stack(found)


@pytest.mark.parametrize("head", ZOO)
@pytest.mark.parametrize("method", ["grad_cam", "layer_cam"])
def test_sess_is_windows_put_back_one_by_one(head, method):
    net, x = ZOO[head](), images()
    close(heat(net, x, {"sess": {"method": method}}).double(), slow(net, x, method, 4, 2 / 7))
    options = {"method": method, "scales": 3, "step": 0.6}
    close(heat(net, x, {"sess": options}).double(), slow(net, x, method, 3, 0.6))


def shares(seen):
    """A method's share of its maximum, at the image's size."""
    share = seen.heat.relu() / seen.heat.relu().amax((1, 2), keepdim=True)
    return F.interpolate(share[:, None], (8, 10), mode="bilinear")[:, 0]


def test_at_one_scale_sess_is_the_share_of_the_method_times_the_confidence():
    net, x = gap_linear(), images()
    seen = explain(net, x, layer="features", target=torch.tensor(CLASSES))
    p = seen.logits.softmax(1)[range(3), CLASSES]
    close(heat(net, x, sess("grad_cam", scales=1)), shares(seen) * p[:, None, None])


def test_a_score_that_is_no_class_weighs_windows_by_itself():
    net, x = gap_linear(), images()

    def both(logits, label):
        return logits[:, 0] + 2 * logits[:, 1]

    seen = explain(net, x, layer="features", target=both)
    found = explain(net, x, layer="features", method=sess("grad_cam", scales=1), target=both).heat
    close(found, shares(seen) * seen.score.clamp(min=0)[:, None, None])
    against = explain(
        net, x, layer="features", method=sess("grad_cam", scales=1), target=lambda z, label: -both(z, label).abs()
    )
    assert not against.heat.any()


def test_mistakes_say_what_would_be_right():
    for options in ({"scales": 0}, {"step": 0.0}):
        with pytest.raises(ValueError, match="expected 1 scale or more, and a step above 0"):
            sess("grad_cam", **options)
    net = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 3), torch.nn.AdaptiveAvgPool1d(1), torch.nn.Flatten())
    with pytest.raises(ValueError, match=r"slides over pictures \[b c h w\]; these are \(1, 2, 20\)"):
        explain(net, torch.rand(1, 2, 20), layer="0", method=sess("grad_cam"), target=1)
