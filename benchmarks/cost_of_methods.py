"""Every method's cost, as a multiple of a plain forward of the same batch, interleaved in one run.

    python benchmarks/cost_of_methods.py [--batch 2] [--size 224] [--repeats 3]

Convolutional methods on torchvision's SqueezeNet 1.0 (512 channels, 13 x 13 places), attention methods on a small ViT.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer

from lightning_cam import explain, methods

NEEDS_A_TRANSFORMER = ("attention_rollout", "attention_relevance", "le_grad", "grad_eclip")
OPTIONS = {  # wrappers need a method; noisy masks are measured with two of them instead of ten
    "smooth": {"smooth": {"method": "grad_cam"}},
    "flip_average": {"flip_average": {"method": "grad_cam"}},
    "sess": {"sess": {"method": "grad_cam"}},
    "libra": {"libra": {"method": "grad_cam"}},
    "ss_cam": {"ss_cam": {"n": 2}},
    "is_cam": {"is_cam": {"n": 2}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=list(dict.fromkeys([*methods.names(), *OPTIONS])))
    args = parser.parse_args()
    torch.manual_seed(0)
    convolutional = models.squeezenet1_0(weights=None).eval()
    transformer = VisionTransformer(args.size, 16, 6, 6, 192, 768, num_classes=10).eval()
    nn.init.normal_(transformer.heads[0].weight)
    images = torch.rand(args.batch, 3, args.size, args.size)
    print(f"multiples of a forward, {args.batch} x {args.size} px, CPU with {torch.get_num_threads()} threads")
    for name in args.methods:
        model = convolutional
        if name in NEEDS_A_TRANSFORMER:
            model = transformer
        ratios = multiples(model, images, OPTIONS.get(name, name), args.repeats)
        print(f"{name:26}{statistics.median(ratios):10.1f}", flush=True)


def multiples(model: nn.Module, images: Tensor, method: str | dict[str, Any], repeats: int) -> list[float]:
    """The cost of a look over that of the plain forward measured right after it, as often as asked."""
    layer = explain(model, images[:1]).layer  # found beforehand: its search is no part of the method

    def look() -> object:
        return explain(model, images, layer=layer, method=method)

    def plain_forward() -> object:
        with torch.no_grad():
            return model(images)

    return [timed(look) / timed(plain_forward) for _ in range(repeats)]


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
