"""One photograph with every method, and one method over every model family, as two PNG sheets.

    python examples/gallery.py --out gallery [--photo FILE] [--model squeezenet1_0] [--weights NAME_OR_FILE] [--target CLASS]

Without ``--photo`` it is one of scikit-learn's sample images. Models without weights given are random, and the sheets say so:
such maps show that a family is read right, not where a trained model looks.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.vision_transformer import VisionTransformer
from torchvision.transforms import v2

from lightning_cam import Explanation, Style, explain, figures, methods, render
from lightning_cam.cli.models import load_model
from lightning_cam.heat import resize
from lightning_cam.render import Caption

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NEEDS_A_TRANSFORMER = {"attention_rollout", "attention_relevance", "le_grad", "grad_eclip"}
OPTIONS = {  # wrappers need a method; noisy masks cost as many forwards as there are channels, times n
    "smooth": {"smooth": {"method": "grad_cam", "n": 8}},
    "flip_average": {"flip_average": {"method": "grad_cam"}},
    "sess": {"sess": {"method": "grad_cam"}},
    "ss_cam": {"ss_cam": {"n": 2}},
    "is_cam": {"is_cam": {"n": 2}},
}
CLASSIFIERS = [
    *("resnet18", "resnext50_32x4d", "vgg11", "squeezenet1_0", "densenet121", "googlenet", "inception_v3", "mobilenet_v2"),
    *(
        "mobilenet_v3_small",
        "efficientnet_b0",
        "convnext_tiny",
        "regnet_y_400mf",
        "maxvit_t",
        "vit_b_16",
        "swin_t",
        "swin_v2_t",
    ),
]
NAMED = {  # what the others are called on the sheet, and the target where it is no class of the picture
    "deeplabv3_mobilenet_v3_large": ("DeepLab v3", "segment"),
    "fcn_resnet50": ("FCN", "segment"),
    "fasterrcnn_mobilenet_v3_large_fpn": ("Faster R-CNN", "detection"),
    "retinanet_resnet50_fpn": ("RetinaNet", "detection"),
    "r3d_18": ("R3D, a video", "predicted"),
    "vit_tiny_patch16_224": ("ViT, registers", "predicted"),
    "deit_tiny_distilled_patch16_224": ("DeiT, distilled", "predicted"),
}
TIMM = {"vit_tiny_patch16_224": {"reg_tokens": 4, "global_pool": "avg"}, "deit_tiny_distilled_patch16_224": {}}
OF_TORCHVISION = {  # no downloads, no slow beginnings, and detectors that find something while they are random
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
    "deeplabv3_mobilenet_v3_large": {"weights_backbone": None},
    "fcn_resnet50": {"weights_backbone": None},
    "fasterrcnn_mobilenet_v3_large_fpn": {"weights_backbone": None, "box_score_thresh": 0.0, "num_classes": 3},
    "retinanet_resnet50_fpn": {"weights_backbone": None, "score_thresh": 0.0, "num_classes": 3},
}


def main() -> None:
    args = arguments()
    torch.manual_seed(0)
    photo = Image.open(args.photo).convert("RGB") if args.photo else Image.fromarray(load_sample_image("china.jpg"))
    prepare = v2.Compose(
        [v2.Resize(256), v2.CenterCrop(224), v2.ToImage(), v2.ToDtype(torch.float32, True), v2.Normalize(MEAN, STD)]
    )
    image = prepare(photo)[None]
    args.out.mkdir(parents=True, exist_ok=True)
    every_method(image, args)
    every_family(image, args)


def every_method(image: Tensor, args: argparse.Namespace) -> None:
    model, trained = load(args.model, args.weights)
    transformer = VisionTransformer(224, 16, 4, 4, 192, 384, num_classes=10).eval()
    nn.init.normal_(transformer.heads[0].weight)  # torchvision begins with a head of zeros, which lets nothing through
    looks, words = [], []
    for name in dict.fromkeys([*methods.names(), *OPTIONS]):
        other = name in NEEDS_A_TRANSFORMER
        target = "predicted" if other or args.target is None else args.target
        looks.append(explain(transformer if other else model, image, method=OPTIONS.get(name, name), target=target))
        words.append(caption(name, "random ViT" if other else args.model))
        print(f"{name}: peak {looks[-1].heat.amax():.3g} at {looks[-1].layer}", flush=True)
    chosen = "the predicted class" if args.target is None else f"class {args.target}"
    told = f"{chosen} of {args.model}{trained}; attention on a transformer of random weights"
    write(looks, words, ("Every method", told), args, "methods")


def every_family(image: Tensor, args: argparse.Namespace) -> None:
    looks, words = [], []
    for name in [*CLASSIFIERS, *NAMED]:
        model, trained = load(name, args.weights if name == args.model else None)
        size = 299 if name.startswith("inception") else 256 if name == "swin_v2_t" else 224
        x = panned(image) if name == "r3d_18" else resize(image, (size, size))
        called, target = NAMED.get(name, (name, "predicted"))
        looks.append(explain(model, x, target=target))
        layer = looks[-1].layer
        words.append(caption(called, layer if len(layer) < 19 else f"..{layer[-15:]}"))
        print(f"{name}{trained}: {layer} {tuple(looks[-1].heat.shape[1:])}, peak {looks[-1].heat.amax():.3g}", flush=True)
    told = f", {args.model} trained, the others random" if args.weights else ", random weights"
    write(looks, words, ("Every family", f"grad_cam at the default layer{told}"), args, "families")


def panned(image: Tensor, frames: int = 8) -> Tensor:
    """The photograph as a film: a window that moves from left to right."""
    room = image.shape[-1] // 8
    steps = [round(i * room / (frames - 1)) for i in range(frames)]
    return resize(torch.stack([image[..., step : step + image.shape[-1] - room] for step in steps], 2), (112, 112))


def caption(name: str, under: str) -> Caption:
    """A name that is too long for its card goes on below, where the other words were."""
    first, rest = name, ""
    while len(first) > 16:
        first, _, last = first.rpartition("_")
        rest = f"_{last}{rest}"
    return Caption(first, rest or under)


def load(name: str, weights: str | None) -> tuple[nn.Module, str]:
    if weights is not None:
        return load_model(f"torchvision:{name}", weights).model.eval(), ""
    if name in TIMM:
        import timm

        return timm.create_model(name, num_classes=10, **TIMM[name]).eval(), ", random weights"
    model = get_model(name, weights=None, **OF_TORCHVISION.get(name, {})).eval()
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight)  # heads that begin at zero let nothing through
    return model, ", random weights"


def write(looks: list[Explanation], words: list[Caption], title: tuple[str, str], args: argparse.Namespace, name: str) -> None:
    style = Style(mean=MEAN, std=STD, panels=("overlay",), colormap="viridis", tile=args.tile, encoding="png")
    size = (args.tile, args.tile)
    pictures, units = [], []
    for look in looks:
        x, unit = look.images, look.unit(style)
        if unit.ndim == 4:  # of a film, the frame with most of the heat
            hottest = int(unit.sum((2, 3)).argmax())
            x, unit = x[:, :, hottest * x.shape[2] // unit.shape[1]], unit[:, hottest]
        pictures.append(render.to_rgb(resize(x, size), style.normalization))
        units.append(resize(unit, size))
    sheet = figures.sheet(torch.cat(pictures), torch.cat(units), words, title, style)
    path = args.out / f"{name}.png"
    path.write_bytes(render.encode(render.to_host(sheet), "png"))
    print(path)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gallery"))
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--model", default="squeezenet1_0")
    parser.add_argument("--weights")
    parser.add_argument("--target", type=int)
    parser.add_argument("--tile", type=int, default=224, help="side of a picture on the sheets, in pixels")
    return parser.parse_args()


if __name__ == "__main__":
    main()
