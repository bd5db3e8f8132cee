"""Real weights, shared by the tests of this folder."""

import pytest
import torchvision
from cifar_resnet import CifarResNet
from photographs import DATA

from lightning_cam.cli.models import fit_weights, read_weights


@pytest.fixture(scope="module")
def nets():
    files = {
        "squeezenet": (torchvision.models.squeezenet1_0(), "squeezenet1_0_imagenet_f16.npz"),
        "mobilenet": (torchvision.models.mobilenet_v2(), "mobilenet_v2_imagenet_f16.npz"),
        "cifar": (CifarResNet(), "cifar10_resnet20_f32.npz"),
    }
    for net, file in files.values():
        fit_weights(net, read_weights(DATA / "models" / file), file)
    return {name: net for name, (net, _) in files.items()}
