"""The command line: ``lightning-cam explain``, ``methods`` and ``layers``."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam import __version__, render
from lightning_cam.cli.figure import SIDE, Told, figure, heat, overlay
from lightning_cam.cli.image_file import MEAN, STD, Preparation, blank, open_image
from lightning_cam.cli.models import load_model
from lightning_cam.data.class_names import class_index, class_name, read_class_names
from lightning_cam.explain import Explanation, explain
from lightning_cam.heat import maximum
from lightning_cam.model.default_layer import find_default_layer
from lightning_cam.model.output import find_logits
from lightning_cam.model.trace import Call, record_calls
from lightning_cam.no_trace import no_trace
from lightning_cam.registry import METHODS
from lightning_cam.render.style import Style

_EXAMPLE = """example:
  lightning-cam explain --image cat.jpg --model torchvision:squeezenet1_1 --weights DEFAULT \\
      --layer features --method cam --top-k 5 --out out/

prints the ranked classes (0.782 -> African elephant) and writes out/cat_cam_heat.jpg, out/cat_cam.jpg (the
overlay, with the class and its percentage) and out/cat_cam_figure.jpg (heat map beside overlay)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command: 0 if it went well, 2 after one line on standard error if what was given cannot be done."""
    args = _parser().parse_args(argv)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        print(f"lightning-cam: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _explain(args: argparse.Namespace) -> None:
    style = Style(colormap=args.colormap, encoding="png" if args.png else "jpeg", font=args.font)
    method = METHODS.find({args.method: dict(args.option)} if args.option else args.method)
    photo = open_image(args.image)
    names = read_class_names(args.labels) if args.labels else {}
    loaded = load_model(args.model, args.weights)
    if not names and loaded.entry is not None:
        names = dict(enumerate(loaded.entry.meta["categories"]))
    target = "predicted" if args.target is None else class_index(args.target, names)
    prepared = Preparation.of(loaded.entry, resize=args.resize, size=args.size, mean=args.mean, std=args.std)
    print(loaded.origin, file=sys.stderr)
    images = prepared.tensor(photo)

    def look(model: nn.Module) -> Explanation:
        return explain(model.to(args.device), images, layer=args.layer, method=method, target=target, output=args.output)

    seen = _run(look, loaded.model, images)
    probability = _probability(seen.logits)
    if args.labels and len(names) != len(probability):
        print(f"{args.labels} names {len(names)} classes and the model has {len(probability)}", file=sys.stderr)
    ranked = probability.topk(min(args.top_k, len(probability)))
    for p, i in zip(ranked.values.tolist(), ranked.indices.tolist(), strict=True):
        print(f"{p:.3f} -> {class_name(i, names)}")
    told = _told(args, seen, probability, names)
    view, unit = prepared.view(photo, SIDE), seen.unit(style).float().cpu()
    pictures = {
        "_heat": heat(unit, style),
        "": overlay(view, unit, told.headline, style),
        "_figure": figure(view, unit, told, style),
    }
    _write(Path(args.out), f"{Path(args.image).stem}_{seen.method}", pictures, style)


def _told(args: argparse.Namespace, seen: Explanation, probability: Tensor, names: Mapping[int, str]) -> Told:
    c = 0 if seen.classes is None else int(seen.classes[0])
    strength, (u, v) = float(maximum(seen.heat)[0]), seen.heat.shape[-2:]
    model, percent = args.model.removeprefix("torchvision:"), 100 * float(probability[c])
    return Told(
        headline=f"{class_name(c, names)} {f'{percent:.0f}' if percent >= 1 else '<1'}%",
        how=f"{seen.method} at {seen.layer} of {Path(model).name}",
        under_heat=f"{u} x {v}, " + (f"peak {strength:.3g}" if strength > 0 else "no evidence for this class"),
        under_photo=Path(args.image).name,
    )


def _write(folder: Path, stem: str, pictures: Mapping[str, Tensor], style: Style) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, picture in pictures.items():
        path = folder / f"{stem}{suffix}.{'jpg' if style.encoding == 'jpeg' else 'png'}"
        path.write_bytes(render.encode(render.to_host(picture), style.encoding))
        print(path)


def _methods(args: argparse.Namespace) -> None:
    names = [*METHODS.names(), *METHODS.wrappers()]
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {METHODS.about(name)}")


def _layers(args: argparse.Namespace) -> None:
    loaded = load_model(args.model, args.weights)
    first = next((module for module in loaded.model.modules() if isinstance(module, nn.Conv2d)), None)
    images = blank(3 if first is None else first.in_channels, Preparation.of(loaded.entry, size=args.size).size)

    def trace(model: nn.Module) -> tuple[list[Call], str]:
        with no_trace(model):
            with record_calls(model, images.shape) as calls, torch.no_grad():
                model(images)
            return calls, find_default_layer(model, images, lambda x: find_logits(model(x), args.output))

    calls, default = _run(trace, loaded.model, images)
    maps = {call.name: call.map_shape for call in calls if call.name and call.layout}
    width = max(map(len, maps))
    for name, shape in maps.items():
        print(f"{name:<{width}}  {' x '.join(map(str, shape))}{'  (default)' if name == default else ''}")


def _run(what: Callable[[nn.Module], Any], model: nn.Module, images: Tensor) -> Any:
    """Call with the model; a failure inside it becomes one line that tells what it was given."""
    try:
        return what(model)
    except (ValueError, OSError):
        raise
    except Exception as error:
        shape, text = "x".join(map(str, images.shape[1:])), " ".join(str(error).split())
        raise ValueError(f"The model could not be run on an image {shape}. {type(error).__name__}: {text[:300]}") from error


def _probability(logits: Any) -> Tensor:
    """The class probabilities of the one image: softmax, or the sigmoid of a single output."""
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"The model gave {given}, and classes are ranked by logits [1 k]; name them with --output.")
    one = logits[0].double().cpu()
    return one.softmax(0) if len(one) > 1 else one.sigmoid()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lightning-cam", description="See where a vision model looks.")
    parser.add_argument("--version", action="version", version=f"lightning-cam {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="command", required=True)

    about = "explain one picture: rank its classes, draw where one of them is seen"
    command = commands.add_parser(
        "explain", help=about, description=about[0].upper() + about[1:] + ".", epilog=_EXAMPLE, formatter_class=_Help
    )
    command.set_defaults(run=_explain)
    group = command.add_argument_group("what is looked at")
    group.add_argument("--image", required=True, metavar="FILE", help="a picture of any format and mode")
    _what(group)
    _where(command.add_argument_group("what is explained, and how"))
    _how(command.add_argument_group("how the picture is prepared"))
    _drawn(command.add_argument_group("what is written"))

    about = "list the methods"
    commands.add_parser("methods", help=about, description="List the methods.").set_defaults(run=_methods)

    about = "list the layers of a model that return a map, with their shapes"
    command = commands.add_parser("layers", help=about, description=about[0].upper() + about[1:] + ".", formatter_class=_Help)
    command.set_defaults(run=_layers)
    group = command.add_argument_group("what is looked at")
    _what(group)
    group.add_argument("--size", type=_positive, metavar="N", help="the side of the input in pixels (default: 224)")
    group.add_argument("--output", type=_key, metavar="KEY", help="where the logits are in the model's output")
    return parser


def _what(group: Any) -> None:
    group.add_argument(
        "--model",
        required=True,
        help="torchvision:NAME; an import path pkg.module.Class or pkg.module:Class, the current directory included; or a "
        "Lightning checkpoint that names its class",
    )
    group.add_argument(
        "--weights",
        metavar="FILE|NAME",
        help="a .ckpt, .pt, .pth, .npz or .safetensors file, or torchvision's name of weights (DEFAULT, IMAGENET1K_V1), which "
        "bring class names and preparation; without, the model stays random",
    )


def _where(group: Any) -> None:
    group.add_argument("--layer", metavar="NAME", help="its dotted name (default: the last that returns a map)")
    group.add_argument("--method", default="grad_cam", metavar="NAME", help="one of: lightning-cam methods (default: grad_cam)")
    group.add_argument(
        "--option", type=_pair, action="append", metavar="KEY=VALUE", help="of the method, as channels=[3,5]; may be repeated"
    )
    group.add_argument("--target", metavar="CLASS", help="index or name of the class explained (default: the top one)")
    group.add_argument("--labels", metavar="FILE", help='class names as JSON: ["cat", ...] or {"0": "cat", ...}')
    group.add_argument("--output", type=_key, metavar="KEY", help="where the logits are in the model's output")
    group.add_argument("--device", type=_device, default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")


def _how(group: Any) -> None:
    group.add_argument("--size", type=_positive, metavar="N", help="side of the square cut from the middle (default: 224)")
    group.add_argument(
        "--resize", type=_positive, metavar="N", help="shorter side before that (default: 256, or 8/7 of --size)"
    )
    for name, usual in (("--mean", MEAN), ("--std", STD)):
        shown = " ".join(map(str, usual))
        group.add_argument(
            name, type=float, nargs="+", metavar="X", help=f"of the normalisation, three or, for grey, one (default: {shown})"
        )


def _drawn(group: Any) -> None:
    group.add_argument("--top-k", type=_positive, default=5, metavar="K", help="how many classes are printed (default: 5)")
    group.add_argument("--out", default=".", metavar="FOLDER", help="where the pictures go (default: here)")
    group.add_argument("--colormap", default=Style.colormap, metavar="NAME", help="one of OpenCV's (default: inferno)")
    group.add_argument("--png", action="store_true", help="write PNG instead of JPEG")
    group.add_argument("--font", metavar="FILE", help="a TrueType file, for class names beyond Latin letters")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Options beside their help, the example as it is written."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=110)


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is no KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def _key(text: str) -> str | int:
    return int(text) if text.removeprefix("-").isdecimal() else text


def _device(text: str) -> torch.device:
    try:
        return torch.device(text)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no device; expected cpu, cuda, cuda:1 or mps") from error
