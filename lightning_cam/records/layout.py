"""The wire: a tree of plain values and tensors as a few strings of bytes, and back.

``[header, body, *files, checksum]``: the header is JSON, in which ``{"array": i}`` stands for a tensor; the body holds all
tensors one after the other, little-endian, booleans as bits, in one zlib stream; files are handed through; the checksum is the
CRC-32 of all before, in hexadecimal digits. No pickle, and nothing that is read is larger than what the header tells and the
bytes that are there can hold.
"""

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Shaped, UInt8
from torch import Tensor

VERSION = 1

Tree = dict[str, Any]

_KINDS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DTYPES = {str(kind).removeprefix("torch."): kind for kind in (*_KINDS, *_FLOATS)}
_RATIO = 1032  # bytes that zlib makes of one at most
_MOST_SIDES = 16


class UnknownVersion(ValueError):
    """Bytes of a layout that this version of the package does not know."""


def pack(tree: Tree, files: Sequence[bytes] = ()) -> list[bytes]:
    """A tree and files beside it as bytes.

    Args:
        tree: dicts with names, lists, strings, finite numbers, booleans, None, and tensors on any device.
        files: such as pictures.
    """
    tensors: list[Tensor] = []
    plain = _without_tensors(tree, tensors)
    arrays = [{"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)} for tensor in tensors]
    head = {"version": VERSION, "arrays": arrays, "tree": plain}
    # a file name of undecodable bytes, as Python reads it, is no valid UTF-8; escaped it is
    header = json.dumps(head, allow_nan=False, separators=(",", ":")).encode("ascii")
    body = zlib.compress(b"".join(map(_to_bytes, tensors)), 1)
    blobs = [header, body, *files]
    return [*blobs, _checksum(blobs)]


def unpack(blobs: Sequence[bytes]) -> tuple[Tree, Sequence[bytes]]:
    """The tree and the files of ``pack``.

    Raises:
        UnknownVersion: for bytes of a later version of this package.
        ValueError: for bytes that are damaged, or were never written by it.

    Example:
        >>> unpack(pack({"name": "a/b", "map": torch.eye(2)}, [b"file"]))
        ({'name': 'a/b', 'map': tensor([[1., 0.],
                [0., 1.]])}, [b'file'])
    """
    if len(blobs) < 3 or _checksum(blobs[:-1]) != blobs[-1]:
        raise ValueError("the checksum is not that of the bytes")
    try:
        head = json.loads(blobs[0])
    except (ValueError, RecursionError):
        raise ValueError("the header is no JSON") from None
    _check_version(head)
    try:
        arrays = [(_DTYPES[array["dtype"]], _shape(array["shape"])) for array in head["arrays"]]
        body = _inflated(blobs[1], sum(_size(*array) for array in arrays))
        tree = _with_tensors(head["tree"], _tensors(body, arrays))
    except (LookupError, TypeError, RuntimeError) as error:
        raise ValueError(f"the header does not hold together, {type(error).__name__}: {error}") from None
    return tree, list(blobs[2:-1])


def _check_version(head: Any) -> None:
    version = head.get("version") if isinstance(head, Mapping) else None
    if type(version) is not int:
        raise ValueError("the header tells no version")
    if version != VERSION:
        raise UnknownVersion(
            f"the record was written in layout {version}, and this lightning_cam reads layout {VERSION}; "
            "read it with the version of lightning_cam that wrote it, or a later one: pip install -U lightning-cam"
        )


def _checksum(blobs: Sequence[bytes]) -> bytes:
    total = 0
    for blob in blobs:
        # with its length, so that bytes do not move from one to the next
        total = zlib.crc32(blob, zlib.crc32(str(len(blob)).encode(), total))
    return f"{total:08x}".encode()


def _without_tensors(value: Any, tensors: list[Tensor]) -> Any:
    """The tree with a number in place of each tensor, which is put on the list."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"array": len(tensors) - 1}
    if isinstance(value, Mapping):
        return {name: _without_tensors(item, tensors) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_tensors(item, tensors) for item in value]
    return value


def _with_tensors(value: Any, tensors: list[Tensor]) -> Any:
    if isinstance(value, list):
        return [_with_tensors(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if list(value) == ["array"]:
        return tensors[value["array"]]
    return {name: _with_tensors(item, tensors) for name, item in value.items()}


def _shape(sides: Any) -> tuple[int, ...]:
    if not isinstance(sides, list) or len(sides) > _MOST_SIDES:
        raise ValueError("an array has no shape")
    if not all(type(side) is int and 0 <= side < 2**31 for side in sides):
        raise ValueError(f"an array cannot have the shape {sides}")
    return tuple(sides)


def _size(kind: torch.dtype, shape: tuple[int, ...]) -> int:
    """The bytes of an array."""
    count = math.prod(shape)
    if kind == torch.bool:
        return -(-count // 8)
    return count * kind.itemsize


def _inflated(data: bytes, size: int) -> bytes:
    """So many bytes out of a stream, which are refused before they are made where the stream cannot hold them."""
    if size > _RATIO * len(data):
        raise ValueError(f"{len(data)} bytes cannot hold the {size} that the header tells of")
    stream = zlib.decompressobj()
    try:
        # never more than one byte too many
        body = stream.decompress(data, size + 1)
    except zlib.error:
        raise ValueError("the body is no zlib stream") from None
    if len(body) != size or not stream.eof:
        raise ValueError(f"the body holds other than the {size} bytes that the header tells of")
    return body


def _tensors(body: bytes, arrays: Sequence[tuple[torch.dtype, tuple[int, ...]]]) -> list[Tensor]:
    tensors = []
    start = 0
    for kind, shape in arrays:
        end = start + _size(kind, shape)
        tensors.append(_from_bytes(body[start:end], kind, shape))
        start = end
    return tensors


def _to_bytes(tensor: Shaped[Tensor, "..."]) -> bytes:
    flat = tensor.detach().contiguous().reshape(-1)
    if flat.dtype == torch.bool:
        # on the device, where there may be a mask a sample
        bits = F.pad(flat.to(torch.uint8), (0, -len(flat) % 8)).reshape(-1, 8)
        flat = (bits << torch.arange(8, device=flat.device, dtype=torch.uint8)).sum(1, dtype=torch.uint8)
    data: bytes = flat.view(torch.uint8).cpu().numpy().tobytes()
    return data


def _from_bytes(data: bytes, kind: torch.dtype, shape: tuple[int, ...]) -> Shaped[Tensor, "..."]:
    if not data:
        return torch.empty(shape, dtype=kind)
    raw: UInt8[Tensor, "n"] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if kind == torch.bool:
        bits = (raw[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
        return bits.flatten()[: math.prod(shape)].bool().reshape(shape)
    return raw.view(kind).reshape(shape)
