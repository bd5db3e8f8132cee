"""Maps of several layers as one: exact values, by explain and by the callback."""

import math

import pytest
import torch
from events import read_events
from nets import cam, fit, loader
from reference_perturbation import enlarged
from zoo import gap_linear, images

from lightning_cam import explain
from lightning_cam.methods.fusion import FUSIONS, fused, names, product
from lightning_cam.registry import Registry

LAYERS = ["features.1", "features"]
FINE = torch.tensor([[[[4.0, 0.0], [2.0, -8.0]]]])  # shares 1 0 / 0.5 0
OTHER = torch.tensor([[[[0.5, 1.0], [-1.0, 0.0]]]])  # shares 0.5 1 / 0 0


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [
        ("mean", [[0.75, 0.5], [0.25, 0.0]]),
        ("max", [[1.0, 1.0], [0.5, 0.0]]),
        ("product", [[0.5, 0.0], [0.0, 0.0]]),
        ("tanh_max", [[math.tanh(2), math.tanh(2)], [math.tanh(1), 0.0]]),
        ({"tanh_max": {"gamma": 1.0}}, [[math.tanh(1), math.tanh(1)], [math.tanh(0.5), 0.0]]),
        (lambda shares: shares[0] - shares[1], [[0.5, -1.0], [0.5, 0.0]]),
    ],
)
def test_fusions_have_exact_values(fusion, expected):
    found = fused([FINE, OTHER], FUSIONS.find(fusion))
    assert torch.allclose(found, torch.tensor([[expected]]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("fusion", names())
def test_fusion_does_not_depend_on_the_layers_units_or_order(fusion):
    a, b = torch.randn(3, 2, 4, 5, dtype=torch.float64), torch.randn(3, 2, 2, 3, dtype=torch.float64)
    how = FUSIONS.find(fusion)
    found = fused([a, b], how)
    assert found.shape == a.shape
    assert torch.allclose(fused([1000 * b, a / 512], how), found, rtol=1e-14, atol=0)
    assert found.min() >= 0
    assert found.max() <= 1


def test_maps_are_resized_to_the_finest_before_they_are_scaled():
    small = torch.randn(1, 1, 2, 3, dtype=torch.float64)
    flat = torch.zeros(1, 1, 8, 9, dtype=torch.float64)
    large = enlarged(small[0, 0], 8, 9).clamp(min=0)
    found = fused([small, flat], FUSIONS.find("max"))[0, 0]
    assert torch.allclose(found, large / large.max(), rtol=0, atol=1e-14)


def test_each_image_and_target_is_scaled_on_its_own_and_nothing_stays_nothing():
    heats = [FINE.repeat(2, 2, 1, 1) * torch.tensor([[1.0, 7.0], [0.0, -1.0]])[:, :, None, None], OTHER.repeat(2, 2, 1, 1)]
    found = fused(heats, FUSIONS.find("mean"))
    assert torch.equal(found[0, 0], found[0, 1])
    assert torch.equal(found[1, 0], torch.tensor([[0.25, 0.5], [0.0, 0.0]]))
    assert torch.equal(found[1, 1], torch.tensor([[0.25, 0.5], [0.0, 0.5]]))


def test_signals_and_volumes_are_fused_alike():
    for sides in ((6,), (4, 6, 8)):
        coarse = torch.randn(2, 1, *(s // 2 for s in sides))
        assert fused([torch.randn(2, 1, *sides), coarse], FUSIONS.find("mean")).shape == (2, 1, *sides)


@pytest.mark.parametrize("method", ["grad_cam", "activation_mean"])
def test_explain_fuses_the_maps_each_layer_has_alone(method):
    net, x = gap_linear(), images()
    alone = [explain(net, x, layer=layer, method=method, target=[0, 3]).heat for layer in LAYERS]
    together = explain(net, x, layer=LAYERS, method=method, target=[0, 3], fuse="product")
    expected = fused(alone, FUSIONS.find("product"))
    assert torch.allclose(together.heat, expected, rtol=1e-12, atol=1e-15)
    assert together.heat.shape == (3, 2, 8, 10)
    assert together.layer == "product of features.1, features"
    one = explain(net, x, layer=[net.features[1], "features"], method=method, target=0, fuse=product)
    assert torch.allclose(one.heat, together.heat[:, 0], rtol=1e-12, atol=1e-15)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": LAYERS}, r"2 layers give 2 maps: name one layer, or fuse='mean'"),
        ({"layer": LAYERS, "fuse": "means"}, "No fusion 'means'. Did you mean 'mean'"),
        ({"layer": "features", "fuse": "mean"}, r"fuse='mean' makes one map of several layers; name two"),
        ({"fuse": "mean"}, "makes one map of several layers"),
        ({"layer": LAYERS, "fuse": {"tanh_max": {"gama": 1}}}, "no option 'gama'. Did you mean 'gamma'"),
    ],
)
def test_mistakes_say_what_would_be_right(options, message):
    with pytest.raises(ValueError, match=message):
        explain(gap_linear(), images(), **options)


def test_one_layer_in_a_list_is_that_layer():
    net, x = gap_linear(), images()
    assert torch.equal(explain(net, x, layer=["features"]).heat, explain(net, x, layer="features").heat)


def test_fusions_are_a_family_of_their_own():
    assert isinstance(FUSIONS, Registry)
    assert names() == ["mean", "max", "tanh_max", "product"]


def test_the_callback_logs_one_fused_sheet_instead_of_one_a_layer(tmp_path):
    from lightning.pytorch.loggers import TensorBoardLogger

    logger = TensorBoardLogger(tmp_path)
    pair = [cam(["trunk.0", "last"], ["grad_cam", "activation_mean"], fuse="mean"), cam(["trunk.0", "last"], fuse=None)]
    fit(tmp_path, pair, logger=logger, enable_checkpointing=True)
    tags = {"cam/fused/grad_cam", "cam/fused/activation_mean", "cam/trunk.0/grad_cam", "cam/last/grad_cam"}
    images = read_events(logger.log_dir).Tags()["images"]
    assert set(images) == tags | {f"{tag}/filmstrip" for tag in tags}
    assert {tag for tag in pair[0].state_dict() if "/" in tag} == {"fused/grad_cam", "fused/activation_mean"}


def test_the_callbacks_metrics_are_of_the_fused_map(tmp_path):
    def highest(heat, seen):
        assert heat.shape == (4, 8, 8)
        assert seen.layer == "last"
        return heat.flatten(1).amax(1)

    run = fit(tmp_path, cam(["trunk.0", "last"], fuse="max", metrics=[highest]), val=loader())
    assert run.callback_metrics["cam/highest"] == 1


def test_the_callback_refuses_to_fuse_what_is_one_layer():
    with pytest.raises(ValueError, match="makes one map of several layers"):
        cam("last", fuse="mean")
    with pytest.raises(ValueError, match="No fusion 'meen'"):
        cam(["last", "trunk"], fuse="meen")
