"""The options of the commands, and their help."""

import argparse
from typing import Any

from lightning_cam import __version__
from lightning_cam.cli.image_file import MEAN, STD
from lightning_cam.cli.patches import add_patches
from lightning_cam.cli.values import Help, device, key, pair, positive
from lightning_cam.render.style import Style

_EXAMPLE = """example:
  lightning-cam explain --image cat.jpg --model torchvision:squeezenet1_1 --weights DEFAULT \\
      --layer features --method cam --top-k 5 --out out/

prints the ranked classes (0.782 -> African elephant) and writes out/cat_cam_heat.jpg, out/cat_cam.jpg (the
overlay, with the class and its percentage) and out/cat_cam_figure.jpg (heat map beside overlay)."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of a whole command line; the name of the command comes as ``command``."""
    parser = argparse.ArgumentParser(
        prog="lightning-cam",
        description="See where a vision model looks.",
    )
    parser.add_argument("--version", action="version", version=f"lightning-cam {__version__}")
    commands = parser.add_subparsers(
        title="commands",
        metavar="command",
        dest="command",
        required=True,
    )
    _add_explain(commands)
    commands.add_parser("methods", help="list the methods", description="List the methods.")
    _add_layers(commands)
    add_patches(commands)
    return parser


def _add_explain(commands: Any) -> None:
    command = commands.add_parser(
        "explain",
        help="explain one picture: rank its classes, draw where one of them is seen",
        description="Explain one picture: rank its classes, draw where one of them is seen.",
        epilog=_EXAMPLE,
        formatter_class=Help,
    )
    model = command.add_argument_group("what is looked at")
    model.add_argument(
        "--image",
        required=True,
        metavar="FILE",
        help="a picture of any format and mode",
    )
    _add_model(model)
    _add_explanation(command.add_argument_group("what is explained, and how"))
    _add_preparation(command.add_argument_group("how the picture is prepared"))
    _add_result(command.add_argument_group("what is written"))


def _add_layers(commands: Any) -> None:
    command = commands.add_parser(
        "layers",
        help="list the layers of a model that return a map, with their shapes",
        description="List the layers of a model that return a map, with their shapes.",
        formatter_class=Help,
    )
    model = command.add_argument_group("what is looked at")
    _add_model(model)
    model.add_argument(
        "--size",
        type=positive,
        metavar="N",
        help="the side of the input in pixels (default: 224)",
    )
    _add_output(model)


def _add_model(group: Any) -> None:
    group.add_argument(
        "--model",
        required=True,
        help="torchvision:NAME; an import path pkg.module.Class or pkg.module:Class, the current directory "
        "included; or a Lightning checkpoint that names its class",
    )
    group.add_argument(
        "--weights",
        metavar="FILE|NAME",
        help="a .ckpt, .pt, .pth, .npz or .safetensors file, or torchvision's name of weights (DEFAULT, "
        "IMAGENET1K_V1), which bring class names and preparation; without, the model stays random",
    )


def _add_output(group: Any) -> None:
    group.add_argument(
        "--part",
        metavar="NAME",
        help="the network within the model that is looked at, by its dotted name (default: the model)",
    )
    group.add_argument(
        "--forward",
        metavar="NAME",
        help="how it is run: a method's name, or the import path of a function (model, images, batch) -> output",
    )
    group.add_argument(
        "--output",
        type=key,
        metavar="KEY",
        help="where the logits are in the model's output",
    )


def _add_explanation(group: Any) -> None:
    group.add_argument(
        "--layer",
        metavar="NAME",
        help="its dotted name (default: the last that returns a map)",
    )
    group.add_argument(
        "--method",
        default="grad_cam",
        metavar="NAME",
        help="one of: lightning-cam methods (default: grad_cam)",
    )
    group.add_argument(
        "--option",
        type=pair,
        action="append",
        metavar="KEY=VALUE",
        help="of the method, as channels=[3,5]; may be repeated",
    )
    group.add_argument(
        "--target",
        metavar="CLASS",
        help="index or name of the class explained (default: the top one)",
    )
    group.add_argument(
        "--labels",
        metavar="FILE",
        help='class names as JSON: ["cat", ...] or {"0": "cat", ...}',
    )
    _add_output(group)
    group.add_argument(
        "--device",
        type=device,
        default="cpu",
        help="cpu, cuda, cuda:1, mps (default: cpu)",
    )


def _add_preparation(group: Any) -> None:
    group.add_argument(
        "--size",
        type=positive,
        metavar="N",
        help="side of the square cut from the middle (default: 224)",
    )
    group.add_argument(
        "--resize",
        type=positive,
        metavar="N",
        help="shorter side before that (default: 256, or 8/7 of --size)",
    )
    for name, default in (("--mean", MEAN), ("--std", STD)):
        values = " ".join(map(str, default))
        group.add_argument(
            name,
            type=float,
            nargs="+",
            metavar="X",
            help=f"of the normalisation, three or, for grey, one (default: {values})",
        )


def _add_result(group: Any) -> None:
    group.add_argument(
        "--top-k",
        type=positive,
        default=5,
        metavar="K",
        help="how many classes are printed (default: 5)",
    )
    group.add_argument(
        "--out",
        default=".",
        metavar="FOLDER",
        help="where the pictures go (default: here)",
    )
    group.add_argument(
        "--colormap",
        default=Style.colormap,
        metavar="NAME",
        help="one of OpenCV's (default: inferno)",
    )
    group.add_argument(
        "--png",
        action="store_const",
        dest="encoding",
        const="png",
        default="jpeg",
        help="write PNG instead of JPEG",
    )
    group.add_argument(
        "--font",
        metavar="FILE",
        help="a TrueType file, for class names beyond Latin letters",
    )
