"""One photograph with every method, and one method over every model family, as two PNG sheets.

    python examples/gallery.py --out gallery [--photo FILE] [--model squeezenet1_0] [--weights NAME_OR_FILE] [--target CLASS]

Without ``--photo`` it is a flower from scikit-learn's sample images. Models without weights given are random, and the
captions say so: such maps show that a family is read right, not where a trained model looks.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torchvision import models as zoo
from torchvision.models.vision_transformer import VisionTransformer
from torchvision.transforms import v2

from lightning_cam import Explanation, Style, explain, methods, models, render
from lightning_cam.heat import resize
from lightning_cam.render import Caption

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NEEDS_A_TRANSFORMER = {"attention_rollout", "attention_relevance", "le_grad", "grad_eclip"}
OPTIONS = {  # wrappers need a method; noisy masks cost as many forwards as there are channels, times n
    "smooth": {"smooth": {"method": "grad_cam", "n": 8}},
    "flip_average": {"flip_average": {"method": "grad_cam"}},
    "ss_cam": {"ss_cam": {"n": 2}},
    "is_cam": {"is_cam": {"n": 2}},
}
FAMILIES = [
    *("resnet18", "resnext50_32x4d", "vgg11", "squeezenet1_0", "densenet121", "googlenet", "inception_v3", "mobilenet_v2"),
    *("mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "regnet_y_400mf", "maxvit_t", "swin_t", "swin_v2_t"),
]


def main() -> None:
    args = arguments()
    torch.manual_seed(0)
    photo = Image.open(args.photo).convert("RGB") if args.photo else Image.fromarray(load_sample_image("flower.jpg"))
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
        words.append(Caption(name, "transformer, random weights" if other else f"{args.model}{trained}"))
        print(f"{name}: peak {looks[-1].heat.amax():.3g} at {looks[-1].layer}", flush=True)
    write(looks, words, ("Every method", "one photograph, the predicted class"), args.out / "methods.png")


def every_family(image: Tensor, args: argparse.Namespace) -> None:
    looks, words = [], []
    for name in FAMILIES:
        model, trained = load(name, args.weights if name == args.model else None)
        size = 299 if name.startswith("inception") else 256 if name == "swin_v2_t" else 224
        looks.append(explain(model, resize(image, (size, size))))
        words.append(Caption(name, f"{looks[-1].layer}{trained}"))
        print(f"{name}: {looks[-1].layer} {tuple(looks[-1].heat.shape[1:])}", flush=True)
    write(looks, words, ("Every family", "grad_cam at the default layer"), args.out / "families.png")


def load(name: str, weights: str | None) -> tuple[nn.Module, str]:
    if weights is not None:
        return models.load(f"torchvision:{name}", weights).model.eval(), ""
    quiet = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return getattr(zoo, name)(weights=None, **quiet).eval(), ", random weights"


def write(looks: list[Explanation], words: list[Caption], title: tuple[str, str], path: Path) -> None:
    style = Style(mean=MEAN, std=STD, panels=("overlay",), tile=224, encoding="png")
    pictures = torch.cat([render.to_rgb(resize(look.images, (224, 224)), style.normalization) for look in looks])
    unit = torch.cat([resize(look.unit(style), (224, 224)) for look in looks])
    path.write_bytes(render.encode(render.to_host(render.sheet(pictures, unit, words, title, style)), "png"))
    print(path)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gallery"))
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--model", default="squeezenet1_0")
    parser.add_argument("--weights")
    parser.add_argument("--target", type=int)
    return parser.parse_args()


if __name__ == "__main__":
    main()
