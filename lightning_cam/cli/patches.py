"""What ``lightning-cam patches`` takes and does: a CSV of patches to a picture and a line of numbers a patient."""

import argparse
from pathlib import Path
from typing import Any

from lightning_cam.cli.values import Help, positive
from lightning_cam.figures.patch_map import PatchPage, patch_map
from lightning_cam.patches.columns import Columns
from lightning_cam.patches.csv_file import read_csv
from lightning_cam.patches.scores import score_patches
from lightning_cam.patches.table import PatchTable
from lightning_cam.render.picture import encode, to_host
from lightning_cam.render.style import Encoding, Style

_ENCODINGS: dict[str, Encoding] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}
_EXAMPLE = """example:
  lightning-cam patches patches.csv --probability score --out map.png

of a table with the columns patient_id, x, y, target and score prints AUC and Dice a patient, and draws each
patient's patches at their places: true labels at the left, predicted probabilities at the right."""


def add_patches(commands: Any) -> None:
    """Add the command and its options."""
    command = commands.add_parser(
        "patches",
        help="draw a table of patches at their places, true labels beside predictions",
        description="Draw a table of patches at their places, true labels beside predictions.",
        epilog=_EXAMPLE,
        formatter_class=Help,
    )
    command.add_argument("table", metavar="FILE", help="a CSV file: a header, then a row a patch")
    _add_columns(command.add_argument_group("which column holds what"))
    _add_page(command.add_argument_group("what is drawn"))


def draw_patches(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        ValueError: for a table that cannot be read, or a picture of another kind than PNG and JPEG.
    """
    encoding = _ENCODINGS.get(Path(args.out).suffix.lower())
    if encoding is None:
        raise ValueError(f"--out {args.out}: expected a name that ends in {', '.join(_ENCODINGS)}.")
    style = Style(colormap=args.colormap, tile=args.tile, font=args.font)
    page = PatchPage(args.rows, args.columns, args.patch_size, args.classes, title=args.title or Path(args.table).name)
    columns = Columns(args.patient, args.x, args.y, args.target, args.probability, args.positive)
    table = read_csv(args.table, columns)
    picture = patch_map(table, page, style)
    if table.probability is not None:
        _print_scores(table)
    path = Path(args.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(to_host(picture), encoding))
    print(path)


def _print_scores(table: PatchTable) -> None:
    scores = score_patches(table)
    width = max(len("mean"), *map(len, table.patients))
    for name, auc, dice in zip(table.patients, scores.auc.tolist(), scores.dice.tolist(), strict=True):
        print(f"{name:<{width}}  AUC {auc:.3f}  Dice {dice:.3f}")
    print(f"{'mean':<{width}}  AUC {float(scores.auc.nanmean()):.3f}  Dice {float(scores.dice.nanmean()):.3f}")


def _add_columns(group: Any) -> None:
    meanings = {
        "patient": "whose patch it is",
        "x": "where it lies from left to right",
        "y": "where it lies from top to bottom",
        "target": "its label, 0 or 1, empty or negative for none",
        "probability": "the predicted probability of label 1; may be absent",
    }
    for name, meaning in meanings.items():
        default = getattr(Columns, name)
        group.add_argument(f"--{name}", default=default, metavar="NAME", help=f"{meaning} (default: {default})")
    group.add_argument("--positive", type=int, metavar="CLASS", help="the class that counts as 1, of more than two")


def _add_page(group: Any) -> None:
    group.add_argument("-o", "--out", default="patches.png", metavar="FILE", help="PNG or JPEG (default: patches.png)")
    group.add_argument("--rows", type=positive, metavar="N", help="of patients (default: as many as needed, for 24 at most)")
    group.add_argument("--columns", type=positive, metavar="N", help="of patients (default: laptop-shaped)")
    group.add_argument("--patch-size", type=float, metavar="N", help="side of a patch in the units of x and y (default: found)")
    group.add_argument("--classes", nargs=2, default=PatchPage.classes, metavar="NAME", help="names of label 0 and label 1")
    group.add_argument("--tile", type=positive, default=240, metavar="N", help="of a panel, its longer side (default: 240)")
    group.add_argument("--title", metavar="TEXT", help="of the picture (default: the file's name)")
    group.add_argument("--colormap", metavar="NAME", help="of the probabilities, one of OpenCV's (default: pale to dark red)")
    group.add_argument("--font", metavar="FILE", help="a TrueType file, for names beyond Latin letters")
