"""What a look costs, as multiples of a plain forward of the same batch, interleaved in one run.

    python benchmarks/cost_of_a_look.py [--model resnet50] [--batch 16] [--size 224] [--repeats 7]

Peers (grad-cam, torchcam, captum) are measured beside it where they are installed.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision import models

from lightning_cam import Style, explain, figures, render
from lightning_cam.render import Caption

Contenders = dict[str, Callable[[], object]]


def main() -> None:
    args = arguments()
    torch.manual_seed(0)
    device = torch.device(args.device)
    model = getattr(models, args.model)(weights=None).to(device).eval()
    images = torch.rand(args.batch, 3, args.size, args.size, device=device)
    contenders = ours(model, images) | peers(model, images, args.layer)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(args.repeats + 1):
        for name, run in contenders.items():
            duration = timed(run, device)
            if repeat > 0:  # the first round warms up
                seconds[name].append(duration)
    forward = statistics.median(seconds["plain forward"])
    print(f"{args.model}, {args.batch} x {args.size} px, {describe(device)}, median of {args.repeats}, interleaved")
    print(f"{'':34}{'ms':>9}{'x forward':>11}{'min .. max ms':>20}")
    for name, durations in seconds.items():
        median = statistics.median(durations)
        extremes = f"{1e3 * min(durations):11.1f} .. {1e3 * max(durations):.1f}"
        print(f"{name:34}{1e3 * median:9.1f}{median / forward:11.2f}{extremes}")


def ours(model: nn.Module, images: Tensor) -> Contenders:
    def plain_forward() -> object:
        with torch.no_grad():
            return model(images)

    explanation = explain(model, images)
    layer = explanation.layer
    captions = [Caption("class 93%", "peak 1.2", True)] * len(images)

    def draw() -> object:
        pictures = render.to_rgb(images, None)
        sheet = figures.sheet(pictures, explanation.normalized(), captions, ("grad_cam", "epoch 1"), Style())
        return render.Picture(render.to_host(sheet)).encode()

    return {
        "plain forward": plain_forward,
        "explain, default layer found": lambda: explain(model, images),
        "explain, grad_cam": lambda: explain(model, images, layer=layer),
        "explain, grad_cam, five classes": lambda: explain(model, images, layer=layer, target={"top_k": {"k": 5}}),
        "explain, activation_mean": lambda: explain(model, images, layer=layer, method="activation_mean"),
        "sheet drawn and encoded": draw,
    }


def peers(model: nn.Module, images: Tensor, layer: str | None) -> Contenders:
    contenders: Contenders = {}
    if layer is None:
        layer = explain(model, images[:1]).layer
    module = model.get_submodule(layer)
    try:
        from pytorch_grad_cam import GradCAM

        def grad_cam() -> object:
            with GradCAM(model, [module]) as cam:
                return cam(images, None)

        contenders["pytorch-grad-cam, grad_cam"] = grad_cam
    except ImportError:
        pass
    try:
        from captum.attr import LayerGradCam

        contenders["captum, grad_cam"] = lambda: LayerGradCam(model, module).attribute(images, model(images).argmax(1))
    except ImportError:
        pass
    try:
        from torchcam.methods import GradCAM as TorchGradCAM

        def torchcam() -> object:
            with TorchGradCAM(model, module) as cam:
                scores = model(images)
                return cam(scores.argmax(1).tolist(), scores)

        contenders["torch-cam, grad_cam"] = torchcam
    except ImportError:
        pass
    return contenders


def timed(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":  # which computes on after a call has returned
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU with {torch.get_num_threads()} threads"


def arguments() -> argparse.Namespace:
    device = "cpu"
    if torch.cuda.is_available():
        device = "cuda"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--layer")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default=device)
    return parser.parse_args()


if __name__ == "__main__":
    main()
