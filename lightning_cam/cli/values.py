"""How the values of options are read, and how their help is set."""

import argparse
import json
from typing import Any

import torch


class Help(argparse.RawDescriptionHelpFormatter):
    """Options beside their help, the example as it is written."""

    def __init__(self, prog: str) -> None:
        # a width of its own, or argparse would fold the lines by the terminal's
        super().__init__(prog, max_help_position=26, width=110)


def pair(text: str) -> tuple[str, Any]:
    """A name and its value, as JSON if it is that."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is no KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:  # no JSON: a word, as in method=grad_cam
        return key, value


def positive(text: str) -> int:
    """A count."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def key(text: str) -> str | int:
    """A name or a position."""
    if text.removeprefix("-").isdecimal():
        return int(text)
    return text


def device(text: str) -> torch.device:
    """A device of torch."""
    try:
        return torch.device(text)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no device; expected cpu, cuda, cuda:1 or mps") from error
