"""Colours equal OpenCV's, and those of signed maps are told apart by everyone."""

import cv2
import numpy as np
import pytest
import torch

from lightning_cam.render import colormap


@pytest.mark.parametrize("name", [name for name in colormap.names() if name != "blue_red"])
def test_every_colour_map_equals_opencv(name):
    values = torch.arange(256)
    ours = colormap.colour((values / 255)[None], name)[:, 0].T.numpy()
    code = getattr(cv2, f"COLORMAP_{name.upper()}")
    theirs = cv2.applyColorMap(values.numpy().astype(np.uint8)[:, None], code)[:, 0, ::-1]
    assert np.array_equal(ours, theirs)


def test_all_of_opencvs_colour_maps_are_there():
    assert {"jet", "viridis", "inferno", "turbo", "cividis", "twilight_shifted"} <= set(colormap.names())
    assert len(colormap.names()) == 1 + sum(name.startswith("COLORMAP_") for name in dir(cv2))


def lightness(rgb):
    lab = cv2.cvtColor((rgb[None].numpy() / 255).astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    return lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])


def test_blue_red_is_balanced_about_a_neutral_middle():
    rgb = colormap.table("blue_red", torch.device("cpu"))
    assert colormap.colour(torch.full((1, 1, 1), 0.5), "blue_red").flatten().tolist() == rgb[128].tolist()
    assert int(rgb[128].max()) - int(rgb[128].min()) <= 1
    light, chroma = lightness(rgb)
    assert (np.diff(light[:129]) > -0.3).all() and (np.diff(light[128:]) < 0.3).all()  # 8 bits round
    for far in range(1, 128):
        assert abs(light[128 - far] - light[128 + far]) < 6
    assert chroma[0] > 50 and chroma[255] > 50
    blue, red = rgb[0].int(), rgb[255].int()
    assert blue[2] > blue[0] + 100 and red[0] > red[2] + 100


@pytest.mark.parametrize(("lost", "kept"), [("red", (0.0, 2.02344, -2.52581)), ("green", (0.494207, 0.0, 1.24827))])
def test_for_and_against_are_told_apart_by_colour_blind_eyes(lost, kept):
    """Simulated as by Vienot, Brettel and Mollon 1999: the missing cone's answer is made of the other two."""
    to_cones = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    rgb = (colormap.table("blue_red", torch.device("cpu")).numpy() / 255) ** 2.2
    cones = rgb @ to_cones.T
    cones[:, 0 if lost == "red" else 1] = cones @ np.array(kept)
    seen = np.clip(cones @ np.linalg.inv(to_cones).T, 0, 1) ** (1 / 2.2)
    lab = cv2.cvtColor(seen[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    for far, apart in ((127, 60), (64, 30), (32, 12)):
        assert np.linalg.norm(lab[128 - far] - lab[128 + far]) > apart
