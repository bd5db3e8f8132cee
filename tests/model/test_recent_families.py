"""Families that are fine-tuned today: plain, under LoRA and compiled, the default layer is the one an expert names.

The reference of their maps is the formula, by one plain hook and autograd.
"""

import pytest
import torch
from compare import close_and_alive
from families import made, plain
from recent import OF_HUGGING_FACE, OF_TIMM, Logits, linear_layers

from lightning_cam import Batch, explain
from lightning_cam.model.names import modules_by_name

pytestmark = pytest.mark.filterwarnings("ignore")

FAMILIES = {f"timm's {name}": family for name, family in OF_TIMM.items()}
FAMILIES |= {f"Hugging Face's {name}": family for name, family in OF_HUGGING_FACE.items()}
QUICK = {"timm's dinov2 with registers", "timm's convnext v2", "Hugging Face's dinov3"}
UNDER_LORA = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


def network(family):
    if family in OF_HUGGING_FACE.values():
        pytest.importorskip("transformers")
    return made(family.make).double()


def explained(net, family):
    x = family.images()
    if len(family.image) == 4:  # a video, frame by frame
        return explain(net, Batch(samples=x, axes="b t c h w"), target=1)
    return explain(net, x, target=1)


def by_hand(net, family, path):
    """Grad-CAM by the paper's formula, with nothing but a hook and autograd."""
    a, g, _ = plain(Logits(net), f"net.{path}", family.images(), 1)
    a, g = family.maps(a), family.maps(g)
    assert a.shape[2:] == family.grid
    heat = torch.zeros(len(a), *family.grid, dtype=torch.float64)
    for k in range(a.shape[1]):
        heat += g[:, k].flatten(1).mean(1).reshape(-1, *[1] * len(family.grid)) * a[:, k]
    return heat


@pytest.mark.parametrize("name", FAMILIES)
def test_the_default_layer_is_the_experts_and_its_map_the_formulas(name):
    family = FAMILIES[name]
    net = network(family)
    found = explained(net, family)
    assert found.layer == family.layer
    assert found.heat.isfinite().all()
    close_and_alive(found.heat, by_hand(net, family, family.layer), 1e-10)
    compiled = explained(torch.compile(net, backend="eager"), family)
    assert compiled.layer == family.layer
    close_and_alive(compiled.heat, found.heat, 1e-10)


@pytest.mark.parametrize("name", UNDER_LORA)
def test_under_lora_the_default_layer_is_the_same_and_its_map_the_formulas(name):
    peft = pytest.importorskip("peft")
    family = FAMILIES[name]
    net = network(family)
    expected, names = explained(net, family).heat, list(modules_by_name(net))
    for fresh in (True, False):
        config = peft.LoraConfig(r=2, target_modules=linear_layers(net), init_lora_weights=fresh)
        adapted = peft.get_peft_model(network(family), config).double().eval()
        assert list(modules_by_name(adapted)) == names
        found = explained(adapted, family)
        assert found.layer == family.layer
        if fresh:  # B = 0: nothing is added yet
            close_and_alive(found.heat, expected, 1e-10)
        else:
            assert not torch.allclose(found.heat, expected, rtol=1e-3)
        close_and_alive(found.heat, by_hand(adapted, family, f"base_model.model.{family.layer}"), 1e-10)
        compiled = explained(torch.compile(adapted, backend="eager"), family)
        assert compiled.layer == family.layer
        close_and_alive(compiled.heat, found.heat, 1e-10)
