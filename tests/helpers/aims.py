"""What a target chooses, shows and scores in the small nets, and a net that labels every place."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn
from zoo import images

from lightning_cam.capture.seen import Seen
from lightning_cam.capture.session import open_session
from lightning_cam.methods import grad_cam
from lightning_cam.targets import find


def look(net, target, labels=None, x=None):
    """The scores, the grad_cam map of each target, and scores of changed samples, as a callback would see them."""
    x = images() if x is None else x
    with open_session(net, ["features"]) as session:
        forward = session.forward(x, find(target), labels)
        positions = range(forward.scores.score.shape[1])
        heat = torch.stack([grad_cam(Seen(forward, "features", t)) for t in positions], 1)
        again = torch.stack([Seen(forward, "features").rescore(i, image=x[[i, i]]) for i in range(len(x))])
    return SimpleNamespace(scores=forward.scores, heat=heat, again=again)


class Dense(nn.Module):
    """As torchvision's segmentation models answer."""

    def __init__(self, wrap=lambda z: {"out": z, "aux": z}):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.head = nn.Conv2d(6, 4, 1)
        self.wrap = wrap
        self.double().eval()

    def forward(self, x):
        return self.wrap(F.interpolate(self.head(self.features(x)), x.shape[-2:], mode="bilinear"))
