"""Models as a user of the command line has them, good and bad; copied to where the command runs."""

import torch
from torch import nn


def net(classes=3, channels=3):
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(channels, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net(x)


class Silent(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward_backend(self, x):
        return self.net(x)


def backend(model, images, batch):
    return model.net(images)


class Wrapped(Net):
    def forward(self, x):
        return {"scores": self.net(x), "aux": x}


class Broken(Net):
    def forward(self, x):
        raise RuntimeError("two sizes\ndiffer")


class Needy(nn.Module):
    def __init__(self, width):
        super().__init__()


def grey():
    return net(channels=1)


def single():
    return net(classes=1)


def several():
    """More than one class is right, each with its own probability."""
    return nn.Sequential(*net(), nn.Sigmoid())


class Hidden(Net):
    def forward(self, x):
        return self.net(x).sigmoid()


def shares():
    return nn.Sequential(*net(), nn.Softmax(1))


def headless():
    return net()[:2]


def dark():
    dark = net()
    nn.init.zeros_(dark[-1].weight)
    return dark


ready = Net()
number = 3
