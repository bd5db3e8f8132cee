"""One photograph with every method, and one method over every model family, as two PNG sheets.

    python examples/gallery.py --out gallery [--photo FILE] [--model squeezenet1_0] [--weights NAME_OR_FILE] [--target CLASS]

Without ``--photo`` it is one of scikit-learn's sample images. Models without weights given are random, and the sheets say so:
such maps show that a family is read right, not where a trained model looks.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.vision_transformer import VisionTransformer
from torchvision.transforms import v2

from lightning_cam import Explanation, Style, explain, figures, methods, render
from lightning_cam.cli.image_file import MEAN, STD
from lightning_cam.cli.models import load_model
from lightning_cam.heat import resize
from lightning_cam.render import Caption

NEEDS_A_TRANSFORMER = {"attention_rollout", "attention_relevance", "le_grad", "grad_eclip"}
OPTIONS = {  # wrappers need a method; noisy masks cost as many forwards as there are channels, times n
    "smooth": {"smooth": {"method": "grad_cam", "n": 8}},
    "flip_average": {"flip_average": {"method": "grad_cam"}},
    "sess": {"sess": {"method": "grad_cam"}},
    "ss_cam": {"ss_cam": {"n": 2}},
    "is_cam": {"is_cam": {"n": 2}},
}
CLASSIFIERS = [
    "resnet18",
    "resnext50_32x4d",
    "vgg11",
    "squeezenet1_0",
    "densenet121",
    "googlenet",
    "inception_v3",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "convnext_tiny",
    "regnet_y_400mf",
    "maxvit_t",
    "vit_b_16",
    "swin_t",
    "swin_v2_t",
]
OTHERS = {  # what they are called on the sheet, and the target, which for some is no class of the picture
    "deeplabv3_mobilenet_v3_large": ("DeepLab v3", "segment"),
    "fcn_resnet50": ("FCN", "segment"),
    "fasterrcnn_mobilenet_v3_large_fpn": ("Faster R-CNN", "detection"),
    "retinanet_resnet50_fpn": ("RetinaNet", "detection"),
    "r3d_18": ("R3D, a video", "predicted"),
    "vit_tiny_patch16_224": ("ViT, registers", "predicted"),
    "deit_tiny_distilled_patch16_224": ("DeiT, distilled", "predicted"),
}
SIDES = {"inception_v3": 299, "swin_v2_t": 256}  # of the input in pixels, where it is not 224
OF_TIMM = {
    "vit_tiny_patch16_224": {"reg_tokens": 4, "global_pool": "avg"},
    "deit_tiny_distilled_patch16_224": {},
}
OF_TORCHVISION = {  # no downloads, no slow beginnings, and detectors that report boxes while they are random
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
    "deeplabv3_mobilenet_v3_large": {"weights_backbone": None},
    "fcn_resnet50": {"weights_backbone": None},
    "fasterrcnn_mobilenet_v3_large_fpn": {"weights_backbone": None, "box_score_thresh": 0.0, "num_classes": 3},
    "retinanet_resnet50_fpn": {"weights_backbone": None, "score_thresh": 0.0, "num_classes": 3},
}


@dataclass
class Page:
    """The explanations of one sheet, each with its caption."""

    explanations: list[Explanation] = field(default_factory=list)
    captions: list[Caption] = field(default_factory=list)

    def add(self, explanation: Explanation, caption: Caption) -> None:
        """Put one more on the page."""
        self.explanations.append(explanation)
        self.captions.append(caption)


def main() -> None:
    args = arguments()
    torch.manual_seed(0)
    image = prepared(photograph(args.photo))
    args.out.mkdir(parents=True, exist_ok=True)
    every_method(image, args)
    every_family(image, args)


def photograph(path: Path | None) -> Image.Image:
    if path is None:
        return Image.fromarray(load_sample_image("china.jpg"))
    return Image.open(path).convert("RGB")


def prepared(photo: Image.Image) -> Tensor:
    prepare = v2.Compose(
        [
            v2.Resize(256),
            v2.CenterCrop(224),
            v2.ToImage(),
            v2.ToDtype(torch.float32, True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return prepare(photo)[None]


def every_method(image: Tensor, args: argparse.Namespace) -> None:
    model = load(args.model, args.weights)
    transformer = VisionTransformer(224, 16, 4, 4, 192, 384, num_classes=10).eval()
    nn.init.normal_(transformer.heads[0].weight)  # torchvision begins with a head of zeros, which lets nothing through
    target = "predicted"
    target_name = "the predicted class"
    if args.target is not None:
        target = args.target
        target_name = f"class {args.target}"
    page = Page()
    for name in dict.fromkeys([*methods.names(), *OPTIONS]):
        method = OPTIONS.get(name, name)
        if name in NEEDS_A_TRANSFORMER:
            explanation = explain(transformer, image, method=method, target="predicted")
            page.add(explanation, caption(name, "random ViT"))
        else:
            explanation = explain(model, image, method=method, target=target)
            page.add(explanation, caption(name, args.model))
        print(f"{name}: peak {explanation.heat.amax():.3g} at {explanation.layer}", flush=True)
    about = f"{target_name} of {args.model}{origin(args.weights)}; attention on a transformer of random weights"
    write(page, ("Every method", about), args, "methods")


def every_family(image: Tensor, args: argparse.Namespace) -> None:
    page = Page()
    for name in [*CLASSIFIERS, *OTHERS]:
        weights = None
        if name == args.model:
            weights = args.weights
        title, target = OTHERS.get(name, (name, "predicted"))
        model = load(name, weights)
        explanation = explain(model, model_input(name, image), target=target)
        layer = explanation.layer
        page.add(explanation, caption(title, shortened(layer)))
        shape = tuple(explanation.heat.shape[1:])
        print(f"{name}{origin(weights)}: {layer} {shape}, peak {explanation.heat.amax():.3g}", flush=True)
    about = "grad_cam at the default layer, random weights"
    if args.weights:
        about = f"grad_cam at the default layer, {args.model} trained, the others random"
    write(page, ("Every family", about), args, "families")


def model_input(name: str, image: Tensor) -> Tensor:
    if name == "r3d_18":
        return panned(image)
    side = SIDES.get(name, 224)
    return resize(image, (side, side))


def panned(image: Tensor, frames: int = 8) -> Tensor:
    """The photograph as a film: a window that moves from left to right."""
    room = image.shape[-1] // 8
    width = image.shape[-1] - room
    steps = [round(i * room / (frames - 1)) for i in range(frames)]
    film = torch.stack([image[..., step : step + width] for step in steps], 2)
    return resize(film, (112, 112))


def caption(name: str, under: str) -> Caption:
    """A name that is too long for its card goes on below, where the other words were."""
    first = name
    rest = ""
    while len(first) > 16:
        first, _, last = first.rpartition("_")
        rest = f"_{last}{rest}"
    return Caption(first, rest or under)


def shortened(layer: str) -> str:
    if len(layer) < 19:
        return layer
    return f"..{layer[-15:]}"


def origin(weights: str | None) -> str:
    if weights is None:
        return ", random weights"
    return ""


def load(name: str, weights: str | None) -> nn.Module:
    if weights is not None:
        return load_model(f"torchvision:{name}", weights).model.eval()
    if name in OF_TIMM:
        import timm

        return timm.create_model(name, num_classes=10, **OF_TIMM[name]).eval()
    model = get_model(name, weights=None, **OF_TORCHVISION.get(name, {})).eval()
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight)  # heads that begin at zero let nothing through
    return model


def write(page: Page, title: tuple[str, str], args: argparse.Namespace, name: str) -> None:
    style = Style(mean=MEAN, std=STD, panels=("overlay",), colormap="viridis", tile=args.tile, encoding="png")
    size = (args.tile, args.tile)
    pictures = []
    maps = []
    for explanation in page.explanations:
        image = explanation.images
        normalized = explanation.normalized(style)
        if normalized.ndim == 4:
            image, normalized = hottest_frame(image, normalized)
        pictures.append(render.to_rgb(resize(image, size), style.normalization))
        maps.append(resize(normalized, size))
    sheet = figures.sheet(torch.cat(pictures), torch.cat(maps), page.captions, title, style)
    path = args.out / f"{name}.png"
    path.write_bytes(render.encode(render.to_host(sheet), "png"))
    print(path)


def hottest_frame(film: Tensor, normalized: Tensor) -> tuple[Tensor, Tensor]:
    """Of a film, the frame with most of the heat; a map has fewer frames than the film, in the same time."""
    t = int(normalized.sum((2, 3)).argmax())
    frame = t * film.shape[2] // normalized.shape[1]
    return film[:, :, frame], normalized[:, t]


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
