"""What the numbers of a look cost, as shares of the look without any, interleaved in one run.

python benchmarks/cost_of_numbers.py [--model resnet50] [--batch 16] [--size 224] [--repeats 7]
"""

import argparse
import statistics
import tempfile
import time

import torch
from torch import Tensor
from torchvision import models

from lightning_cam import Batch, Numbers, Style, Watcher, metrics


def main() -> None:
    args = arguments()
    torch.manual_seed(0)
    model = getattr(models, args.model)(num_classes=10).to(args.device).eval()
    pixels = torch.rand(args.batch, 3, args.size, args.size, device=args.device)
    regions = torch.zeros(args.batch, args.size, args.size, dtype=torch.bool, device=args.device)
    regions[:, : args.size // 2, : args.size // 2] = True
    batch = {"image": pixels, "label": torch.arange(args.batch, device=args.device) % 10, "region": regions}
    contenders = {"without numbers": [], "defaults, no regions": metrics.defaults(False), "defaults": metrics.defaults(True)}
    contenders |= {name: [name] for name in metrics.defaults(True)}
    with tempfile.TemporaryDirectory() as folder:
        watchers = {
            name: Watcher(
                model,
                batch,
                metrics=chosen,
                batch=Batch(regions="region"),
                style=Style(mean=(0, 0, 0), std=(1, 1, 1)),
                numbers=Numbers(table=name == "defaults"),
                folder=f"{folder}/{i}",
            )
            for i, (name, chosen) in enumerate(contenders.items())
        }
        first = {name: timed(watcher, 0, pixels) for name, watcher in watchers.items()}
        seconds: dict[str, list[float]] = {name: [] for name in watchers}
        for repeat in range(args.repeats):
            for name, watcher in watchers.items():
                seconds[name].append(timed(watcher, repeat + 1, pixels))
    plain = statistics.median(seconds["without numbers"])
    print(f"{args.model}, {args.batch} x {args.size} px, {args.device}, median of {args.repeats}, interleaved")
    print(f"{'':24}{'ms':>9}{'beyond the look':>18}{'first look, ms':>16}")
    for name, durations in seconds.items():
        median = statistics.median(durations)
        print(f"{name:24}{1e3 * median:9.1f}{median / plain - 1:17.1%} {1e3 * first[name]:16.1f}")


def timed(watcher: Watcher, step: int, images: Tensor) -> float:
    start = time.perf_counter()
    watcher.look(step)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def arguments() -> argparse.Namespace:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default=device)
    return parser.parse_args()


if __name__ == "__main__":
    main()
