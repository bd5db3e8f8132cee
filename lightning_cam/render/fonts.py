"""Fonts: Pillow's own, a file of the user's, and those of the system that have the letters these lack."""

import os
import sys
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import ImageFont

_PROBE = 32  # pixels, the size at which fonts are asked for letters
_SUFFIXES = (".ttf", ".otf", ".ttc")
# upright fonts by file name in lower case without spaces, those that fit Latin letters beside them first
_PATTERNS = (
    "notosans-regular.*",
    "notosans[[]*",
    "dejavusans.ttf",
    "notosanscjk*-regular.*",
    "notosanscjk*vf.*",
    "sourcehansans*-regular.*",
    "notosans*-regular.*",
    "notosans*[[]*",
    "notoemoji-regular.*",
    "pingfang*",
    "*w3.[ot]t[cf]",  # Hiragino, whose files may have Japanese names
    "applesdgothicneo.*",
    "geezapro.*",
    "kohinoor*",
    "thonburi.*",
    "applesymbols.*",
    "yugothr.*",
    "yugothic*regular.*",
    "meiryo.*",
    "msgothic.*",
    "msyh.*",
    "simhei.*",
    "simsun.*",
    "malgun.*",
    "nirmala.*",
    "leelawui.*",
    "segoeui.ttf",
    "seguisym.ttf",
    "arial.ttf",
    "arialunicode*",
    "arialuni.*",
    "wqy-*",
    "wenquanyi*",
    "droidsansfallback*",
    "nanumgothic.*",
    "ipag.*",
    "lohit*",
    "liberationsans-regular.*",
    "freesans.*",
    "unifont.*",
)


def folders() -> list[Path]:
    """Where this system keeps its fonts and the user's own."""
    home = Path.home()
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    if sys.platform == "win32":
        windows = Path(os.environ.get("WINDIR", r"C:\Windows"))
        local = Path(os.environ.get("LOCALAPPDATA", home / "AppData/Local"))
        return [windows / "Fonts", local / "Microsoft/Windows/Fonts"]
    own = Path(os.environ.get("XDG_DATA_HOME", home / ".local/share"))
    return [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), own / "fonts", home / ".fonts"]


@lru_cache(maxsize=1)
def installed() -> tuple[str, ...]:
    """The well-known fonts in these folders, best first. They are searched once, by file name; no font is opened."""
    files = [Path(root, name) for folder in folders() for root, _, names in os.walk(folder) for name in names]
    fonts = {path: _plain(path.name) for path in sorted(files) if path.suffix.lower() in _SUFFIXES}
    ranked = [path for pattern in _PATTERNS for path, name in fonts.items() if fnmatchcase(name, pattern)]
    return tuple(str(path) for path in dict.fromkeys(ranked))


@lru_cache(maxsize=64)
def load(size: int, font: str | None) -> Any:
    """The face of a font file, or of Pillow's own font for None, at a size in pixels.

    Raises:
        OSError: if the file is no font.
    """
    if not font:
        return ImageFont.load_default(size)
    face = ImageFont.truetype(font, size)
    if _variable(font) and font in installed():
        # it starts at its thinnest
        with suppress(OSError, ValueError):
            face.set_variation_by_name("Regular")
    return face


@lru_cache(maxsize=65536)
def has(font: str | None, letter: str) -> bool:
    """Whether the font draws a letter as something else than what it draws for letters it lacks."""
    # Pillow does not show a font's table of letters, only what it draws
    return _drawn(font, letter) != _replacement(font)


@lru_cache(maxsize=4096)
def substitute(text: str) -> str | None:
    """The first of the system's fonts that has all letters of the text, None where there is none."""
    letters = [letter for letter in dict.fromkeys(text) if not invisible(letter)]
    for font in installed():
        if _has_all(font, letters):
            return font
    return None


def invisible(letter: str) -> bool:
    """Whether a letter only says how others are drawn: controls, joiners, variation selectors."""
    return unicodedata.category(letter) in ("Cc", "Cf") or "\ufe00" <= letter <= "\ufe0f"


def forget() -> None:
    """Look for fonts anew the next time one is needed."""
    for remembered in (installed, load, has, substitute, _replacement):
        remembered.cache_clear()


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).lower().replace(" ", "")


def _variable(font: str) -> bool:
    name = Path(font).name
    return "[" in name or "VF" in name


def _has_all(font: str, letters: Sequence[str]) -> bool:
    try:
        return all(has(font, letter) for letter in letters)
    except OSError:
        # a file that is no font has no letters
        return False


def _drawn(font: str | None, letter: str) -> bytes:
    return bytes(load(_PROBE, font).getmask(letter))


@lru_cache(maxsize=256)
def _replacement(font: str | None) -> bytes:
    """What the font draws for letters it lacks; U+FFFF is no letter of any script."""
    return _drawn(font, "\uffff")
