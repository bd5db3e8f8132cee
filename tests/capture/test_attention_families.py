"""Transformers as they are today, random and small: the rollout is that of the probabilities the model itself computes."""

import pytest
import timm
import torch
from compare import close
from families import made
from vits import attention_of

from lightning_cam import explain

METHODS = ["attention_rollout", "attention_relevance", "le_grad"]
SIZE = (64, 96)
NARROW = dict(embed_dim=48, num_heads=4)

# family: timm's name, its options, the image, tokens before the patches, which of the rows behind the last block are read
FAMILIES = {
    "dinov2 with registers": ("vit_small_patch14_reg4_dinov2", dict(img_size=56, depth=2), (56, 56), 5, "first"),
    "dinov3": ("vit_small_patch16_dinov3", dict(dynamic_img_size=True, depth=2, use_fc_norm=False), SIZE, 5, "patches"),
    "eva-02": ("eva02_tiny_patch14_224", dict(img_size=56, depth=2), (56, 56), 1, "patches"),
    "eva-02, of clip": ("eva02_base_patch16_clip_224", dict(img_size=64, depth=2, **NARROW), (64, 64), 1, "first"),
    "beit": ("beit_base_patch16_224", dict(img_size=64, depth=2, **NARROW), (64, 64), 1, "patches"),
    "clip": ("vit_base_patch16_clip_224", dict(img_size=SIZE, depth=2, **NARROW), SIZE, 1, "first"),
    "deit, distilled": ("deit_tiny_distilled_patch16_224", dict(img_size=SIZE, depth=2), SIZE, 2, "first two"),
}


def small(family):
    name, options, size, *_ = FAMILIES[family]
    net = made(lambda: timm.create_model(name, num_classes=5, **options)).double()
    return net, torch.rand(2, 3, *size, dtype=torch.float64)


def probabilities(net, x):
    """What timm's own attention drops out of, written out."""
    kept = []
    for block in net.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, args, p: kept.append(p.detach()))
    net(x)
    return kept


def rolled(probabilities, rows, prefix):
    """Rollout of one image at a time, from its definition."""
    maps = []
    for image in zip(*probabilities, strict=True):
        through = torch.eye(image[0].shape[1], dtype=torch.float64)
        for p in image:
            a = p.double().mean(0) / 2 + torch.eye(p.shape[1], dtype=torch.float64) / 2
            through = a @ through
        maps.append(torch.stack([through[i, prefix:] for i in rows]).mean(0))
    return torch.stack(maps)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_rollout_is_that_of_the_models_own_probabilities(family):
    net, x = small(family)
    prefix, read = FAMILIES[family][3:]
    found = {method: explain(net, x, method=method, target=1).heat for method in METHODS}
    kept = probabilities(net, x)
    assert len(kept) == 2
    n = kept[0].shape[-1]
    rows = {"first": [0], "first two": [0, 1], "patches": range(prefix, n)}[read]
    expected = rolled(kept, rows, prefix)
    close(found["attention_rollout"].flatten(1), expected)
    assert found["attention_rollout"][0].numel() == n - prefix
    for method in METHODS:
        assert found[method].dtype == torch.float64
        assert found[method].std() > 0
        close(explain(net, x, method=method, target=1).heat, found[method], 1e-8)  # now written out by timm


def adapted(net):
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    return peft.get_peft_model(net, peft.LoraConfig(r=2, target_modules=["qkv"], modules_to_save=["head"]))


@pytest.mark.parametrize("pool", ["token", "map"])
@pytest.mark.parametrize("method", [*METHODS, "grad_eclip"])
def test_adapters_on_queries_keys_and_values_change_nothing_but_values(method, pool):
    net = made(
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=5, global_pool=pool)
    ).double()
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    layer = "blocks.0"
    expected = explain(net, x, layer=layer, method=method, target=1).heat
    lora = adapted(net)
    found = explain(lora, x, layer=layer, method=method, target=1).heat
    close(found, expected, 1e-12)
    assert [block.name for block in attention_of(lora, x, layer=layer).blocks] == [f"blocks.{i}.attn" for i in range(2)]
    for name, p in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p)
    changed = explain(lora, x, layer=layer, method=method, target=1).heat
    assert (changed - expected).abs().max() > 1e-3 * expected.abs().max()
    close(changed, explain(lora.merge_and_unload(), x, layer=layer, method=method, target=1).heat, 1e-10)
