"""The command line: what ``lightning-cam explain``, ``methods`` and ``layers`` do; ``patches`` has its own file."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from lightning_cam import render
from lightning_cam.capture.session import open_session
from lightning_cam.cli.figure import SIDE, FigureWords, figure, heat, overlay
from lightning_cam.cli.image_file import Preparation, blank, open_image
from lightning_cam.cli.models import load_model
from lightning_cam.cli.options import build_parser
from lightning_cam.cli.patches import draw_patches
from lightning_cam.data.class_names import class_index, class_name, read_class_names
from lightning_cam.explain import explain
from lightning_cam.explanation import Explanation
from lightning_cam.figures.captions import NO_EVIDENCE, on_map_words
from lightning_cam.heat import maximum
from lightning_cam.model.call import ModelCall, find_model
from lightning_cam.model.trace import Call, map_shapes
from lightning_cam.registry import METHODS
from lightning_cam.render.picture import FILE_ENDINGS
from lightning_cam.render.style import Style

Result = TypeVar("Result")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command: 0 if it went well, 2 after one line on standard error if what was given cannot be done."""
    args = build_parser().parse_args(argv)
    folder = str(Path.cwd())
    if folder not in sys.path:  # an installed command does not import from where it is called
        sys.path.insert(0, folder)
    commands = {"explain": _explain, "methods": _methods, "layers": _layers, "patches": draw_patches}
    try:
        commands[args.command](args)
    except (ValueError, OSError) as error:
        print(f"lightning-cam: error: {_joined_lines(error)}", file=sys.stderr)
        return 2
    return 0


def _explain(args: argparse.Namespace) -> None:
    # what is quick to refuse comes before the model, whose weights may have to be downloaded
    style = Style(colormap=args.colormap, encoding=args.encoding, font=args.font)
    method = METHODS.find(_method_with_options(args))
    photo = open_image(args.image)
    names = {}
    if args.labels:
        names = read_class_names(args.labels)
    loaded = load_model(args.model, args.weights)
    if not names and loaded.entry is not None:
        names = dict(enumerate(loaded.entry.meta["categories"]))
    target: str | int = "predicted"
    if args.target is not None:
        target = class_index(args.target, names)
    preparation = Preparation.of(
        loaded.entry,
        resize=args.resize,
        size=args.size,
        mean=args.mean,
        std=args.std,
    )
    print(loaded.origin, file=sys.stderr)
    images = preparation.tensor(photo)

    def explain_image(model: nn.Module) -> Explanation:
        return explain(
            find_model(model.to(args.device), args.part),
            images,
            layer=args.layer,
            method=method,
            target=target,
            forward=args.forward,
            output=args.output,
        )

    explanation = _run(explain_image, loaded.model, images)
    probability = _probability(explanation)
    # no refusal: a model may have a class more, such as a background
    if args.labels and len(names) != len(probability):
        print(f"{args.labels} names {len(names)} classes and the model has {len(probability)}", file=sys.stderr)
    _print_ranking(probability, names, args.top_k)
    words = _words(args, explanation, probability, names)
    view = preparation.view(photo, SIDE)
    normalized = explanation.normalized(style).float().cpu()
    pictures = {
        "_heat": heat(normalized, style),
        "": overlay(view, normalized, words.headline, style),
        "_figure": figure(view, normalized, words, style),
    }
    _write(Path(args.out), f"{Path(args.image).stem}_{explanation.method}", pictures, style)


def _method_with_options(args: argparse.Namespace) -> str | dict[str, Any]:
    name: str = args.method
    if args.option:
        return {name: dict(args.option)}
    return name


def _print_ranking(probability: Float[Tensor, "k"], names: Mapping[int, str], count: int) -> None:
    best = probability.topk(min(count, len(probability)))
    for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        print(f"{p:.3f} -> {class_name(i, names)}")


def _words(
    args: argparse.Namespace,
    explanation: Explanation,
    probability: Float[Tensor, "k"],
    names: Mapping[int, str],
) -> FigureWords:
    c = 0  # the single output of a model without classes
    if explanation.classes is not None:
        c = int(explanation.classes[0])
    model = args.model.removeprefix("torchvision:")
    u, v = explanation.heat.shape[-2:]
    peak = float(maximum(explanation.heat)[0])
    strength = f"{NO_EVIDENCE} for this class"
    if peak > 0:
        strength = f"peak {peak:.3g}"
        if explanation.on_map is not None:
            strength += on_map_words(", ", float(explanation.on_map[0]))
    return FigureWords(
        headline=f"{class_name(c, names)} {_percent(float(probability[c]))}",
        source=f"{explanation.method} at {explanation.layer} of {Path(model).name}",
        under_heat=f"{u} x {v}, {strength}",
        under_photo=Path(args.image).name,
    )


def _percent(probability: float) -> str:
    percent = 100 * probability
    if percent < 1:
        return "<1%"
    return f"{percent:.0f}%"


def _write(folder: Path, stem: str, pictures: Mapping[str, Tensor], style: Style) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, picture in pictures.items():
        path = folder / f"{stem}{suffix}.{FILE_ENDINGS[style.encoding]}"
        path.write_bytes(render.encode(render.to_host(picture), style.encoding))
        print(path)


def _methods(args: argparse.Namespace) -> None:
    names = [*METHODS.names(), *METHODS.wrappers()]
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {METHODS.about(name)}")


def _layers(args: argparse.Namespace) -> None:
    loaded = load_model(args.model, args.weights)
    size = Preparation.of(loaded.entry, size=args.size).size
    images = blank(_input_channels(loaded.model), size)

    def trace(model: nn.Module) -> tuple[list[Call], str]:
        network = find_model(model, args.part)
        with open_session(network, [], images, output=args.output, call=ModelCall(args.forward)) as session:
            return session.activations(images).calls, session.layers[0]

    calls, default = _run(trace, loaded.model, images)
    shapes = map_shapes(calls)
    width = max(map(len, shapes))
    for name, shape in shapes.items():
        line = f"{name:<{width}}  {' x '.join(map(str, shape))}"
        if name == default:
            line += "  (default)"
        print(line)


def _input_channels(model: nn.Module) -> int:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return 3


def _run(task: Callable[[nn.Module], Result], model: nn.Module, images: Tensor) -> Result:
    """Call with the model; a failure inside it becomes one line that tells what it was given."""
    try:
        return task(model)
    except (ValueError, OSError):  # already a line for the user
        raise
    except Exception as error:
        shape = "x".join(map(str, images.shape[1:]))
        cause = f"{type(error).__name__}: {_joined_lines(error)[:300]}"
        raise ValueError(f"The model could not be run on an image {shape}. {cause}") from error


def _probability(explanation: Explanation) -> Float[Tensor, "k"]:
    """The class probabilities of the one image."""
    if explanation.probability is not None:
        return explanation.probability[0].cpu()
    output: object = type(explanation.logits).__name__
    if isinstance(explanation.logits, Tensor):
        output = tuple(explanation.logits.shape)
    raise ValueError(f"The model gave {output}, and classes are ranked by logits [1 k]; name them with --output.")


def _joined_lines(error: Exception) -> str:
    return " ".join(str(error).split())
