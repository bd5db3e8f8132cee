"""A line of type in any script: each piece of it in a font that has its letters."""

import unicodedata
import warnings
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from PIL import ImageDraw

from lightning_cam.render import fonts

Ink = tuple[int, ...]
Place = tuple[int | float, int | float]

_EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO")
_EUROPEAN = ("LATIN", "GREEK", "CYRILLIC")
_warned: set[str] = set()


@dataclass(frozen=True)
class Line:
    """Pieces of text, each with the face it is drawn in, and the face of the text around, whose baseline they share."""

    pieces: tuple[tuple[str, Any], ...]
    face: Any

    @property
    def text(self) -> str:
        """What is drawn."""
        return "".join(text for text, _ in self.pieces)

    @property
    def length(self) -> float:
        """In pixels."""
        return float(sum(face.getlength(text) for text, face in self.pieces))


def typeset(text: str, size: int, font: str | None) -> Line:
    """The text in fonts that have its letters.

    Where Pillow's own font lacks letters, it leaves all of the text to the first of the system's fonts that has every one; a
    font file keeps what it has, and leaves only the rest to others. Accents that no font has are dropped, and other letters
    are written as their code points, as U+65E5, under a warning a script.

    Args:
        text: of any script.
        size: in pixels.
        font: a font file, or None for Pillow's own font, which has ASCII and few letters more.

    Example:
        >>> typeset("bear 93%", 18, None).text
        'bear 93%'
    """
    face = fonts.load(size, font)
    if font is None and text.isascii():
        return Line(((text, face),), face)
    if all(fonts.has(font, letter) for letter in text):
        return Line(((text, face),), face)
    # a text all in one font looks better than one of pieces, but what the user named is not put aside
    if font is None:
        substitute = fonts.substitute(text)
        if substitute is not None:
            return Line(((text, fonts.load(size, substitute)),), face)
    simple = _without_accents(text, font)
    if simple is not None:
        return Line(((simple, face),), face)
    pieces = []
    for piece, source in _pieces(text, font):
        if source == font:
            pieces.append((piece, face))
        else:
            pieces.append((piece, fonts.load(size, source)))
    return Line(tuple(pieces), face)


def clip(line: Line, width: int) -> Line:
    """The line, cut to a width in pixels with an ellipsis."""
    if line.length <= width:
        return line
    pieces = list(line.pieces)
    while pieces and _with_ellipsis(pieces, line.face).length > width:
        text, face = pieces.pop()
        if len(text) > 1:
            pieces.append((text[:-1], face))
    if pieces:
        text, face = pieces[-1]
        pieces[-1] = (text.rstrip(), face)
    return _with_ellipsis(pieces, line.face)


def write(draw: ImageDraw.ImageDraw, place: Place, line: Line, ink: Ink, anchor: str = "la", **stroke: Any) -> None:
    """Draw the line at a place.

    Args:
        draw: what is drawn on.
        place: x and y in pixels.
        line: what is drawn.
        ink: RGB, or RGBA.
        anchor: which point of the line lies there: l, m or r for left, middle or right, then a or m for top or middle.
        stroke: Pillow's options ``stroke_width`` and ``stroke_fill``.
    """
    if all(face is line.face for _, face in line.pieces):
        draw.text(place, line.text, ink, line.face, anchor=anchor, **stroke)
        return
    # fonts differ in how high they rise: a common baseline keeps pieces level, and the lines of a strip apart
    ascent, descent = line.face.getmetrics()
    left = place[0] - {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]] * line.length
    baseline = place[1] + {"a": ascent, "m": (ascent - descent) / 2}[anchor[1]]
    for text, face in line.pieces:
        draw.text((left, baseline), text, ink, face, anchor="ls", **stroke)
        left += face.getlength(text)


def forget() -> None:
    """Look for fonts anew, and warn anew."""
    _warned.clear()
    fonts.forget()


def _with_ellipsis(pieces: Sequence[tuple[str, Any]], face: Any) -> Line:
    if pieces and pieces[-1][1] is face:
        return Line((*pieces[:-1], (pieces[-1][0] + "...", face)), face)
    return Line((*pieces, ("...", face)), face)


def _without_accents(text: str, font: str | None) -> str | None:
    """The text in letters of the font, accents that it lacks dropped; None if more than accents would be lost."""
    letters = []
    for letter in text:
        if fonts.has(font, letter):
            letters.append(letter)
            continue
        for part in unicodedata.normalize("NFKD", letter):
            if fonts.has(font, part):
                letters.append(part)
            elif not _attached(part):
                return None
    if text and not letters:
        # a text of nothing but accents is not to vanish
        return None
    return "".join(letters)


def _attached(letter: str) -> bool:
    """Whether a letter stands on, or says something about, the one before it."""
    return unicodedata.category(letter).startswith("M") or fonts.invisible(letter)


def _pieces(text: str, font: str | None) -> list[tuple[str, str | None]]:
    """The text in runs of letters that one font has, each with that font; None is Pillow's own."""
    simple = [_without_accents(letter, font) for letter in text]
    text = "".join(letter if plain is None else plain for letter, plain in zip(text, simple, strict=True))
    missing = {letter for letter in text if _in_no_font(letter, font)}
    if missing:
        _warn(text, missing)
        text = _code_points(text, missing)
    sources: list[str | None] = []
    for letter in text:
        # an accent in another font than its letter would stand beside it
        if sources and _attached(letter):
            sources.append(sources[-1])
        else:
            sources.append(_source(letter, font))
    runs = groupby(zip(text, sources, strict=True), key=itemgetter(1))
    return [("".join(letter for letter, _ in run), source) for source, run in runs]


def _in_no_font(letter: str, font: str | None) -> bool:
    if _attached(letter) or fonts.has(font, letter) or fonts.has(None, letter):
        return False
    return fonts.substitute(letter) is None


def _source(letter: str, font: str | None) -> str | None:
    """The font that draws a letter: the user's, Pillow's own, or one of the system's."""
    if fonts.has(font, letter):
        return font
    if fonts.has(None, letter):
        return None
    return fonts.substitute(letter)


def _code_points(text: str, missing: AbstractSet[str]) -> str:
    """The text with the missing letters as words of their own."""
    letters = [f" U+{ord(letter):04X} " if letter in missing else letter for letter in text]
    return " ".join("".join(letters).split())


def _warn(text: str, missing: AbstractSet[str]) -> None:
    """Once a script, however many texts are written in it."""
    scripts = {_script(letter) for letter in missing} - _warned
    if not scripts:
        return
    _warned.update(scripts)
    letters = "".join(sorted(missing))
    warnings.warn(
        f"No font of this system has the letters {letters!r} of {text!r}; they are drawn as code points. "
        f'Install a font that has them, or name its file: Style(font="/path/to/{_example(min(scripts))}").',
        stacklevel=2,
    )


def _script(letter: str) -> str:
    """The script of a letter as its Unicode name begins, and one word for all signs and symbols."""
    if unicodedata.category(letter).startswith("L"):
        return unicodedata.name(letter, "SYMBOLS").split()[0]
    return "SYMBOLS"


def _example(script: str) -> str:
    """The file of a free font for a script."""
    if script in _EAST_ASIAN:
        return "NotoSansCJK-Regular.ttc"
    if script in _EUROPEAN:
        return "NotoSans-Regular.ttf"
    return f"NotoSans{script.title()}-Regular.ttf"
