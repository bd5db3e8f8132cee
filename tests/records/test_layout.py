"""The wire: what goes in comes out, and what never went in is refused before anything is made of it."""

import json
import tracemalloc
import zlib

import pytest
import torch
from run_records import HOSTILE, identical

from lightning_cam.records import layout
from lightning_cam.records.layout import UnknownVersion, pack, unpack

KINDS = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int64, torch.float16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (7,), (9,), (2, 3, 5)])
@pytest.mark.parametrize("kind", [*KINDS, torch.float64])
def test_a_tensor_of_any_shape_and_type_comes_back_bit_for_bit(kind, shape):
    tensor = (torch.randn(shape) * 3).to(kind)
    tree, files = unpack(pack({"a": {"b": [tensor, "x", None]}}))
    assert identical(tree["a"]["b"][0], tensor) and tree["a"]["b"][1:] == ["x", None] and files == []


def test_not_a_number_infinity_and_negative_zero_keep_their_bits():
    tensor = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0])
    (tree, _) = unpack(pack({"a": tensor}))
    assert torch.equal(tree["a"].view(torch.int32), tensor.view(torch.int32))


def test_views_and_what_needs_a_gradient_are_written_as_they_read():
    tensor = torch.arange(12.0).reshape(3, 4).requires_grad_()
    tree, _ = unpack(pack({"a": tensor.T, "b": tensor[:, ::2]}))
    assert identical(tree["a"], tensor.detach().T.contiguous()) and identical(tree["b"], tensor.detach()[:, ::2].contiguous())


def test_plain_values_files_and_any_text_come_back():
    plain = {"texts": HOSTILE, "numbers": [1, -(2**62), 0.1, 1e300], "yes": True, "none": None, "deep": {"a": [[{}]]}}
    files = [b"", b"\xff\xd8picture", bytes(range(256))]
    tree, back = unpack(pack(plain, files))
    assert tree == plain and back == files


def test_booleans_take_a_bit_each():
    mask = torch.rand(1, 100_000) < 0.5
    assert len(pack({"mask": mask})[1]) < 13_000  # 12500 bytes, which noise does not let shrink


# what nobody wrote


def test_every_changed_byte_is_noticed():
    blobs = pack({"name": "a", "map": torch.randn(5)}, [b"file"])
    for i, blob in enumerate(blobs):
        for place in range(len(blob)):
            changed = bytearray(blob)
            changed[place] ^= 0x20
            with pytest.raises(ValueError, match="checksum"):
                unpack([*blobs[:i], bytes(changed), *blobs[i + 1 :]])


@pytest.mark.parametrize("blobs", [[], [b""], [b"", b""], [b"", b"", b""], [b"{}", b"x", b"00000000"]])
def test_too_few_blobs_or_none_of_ours_are_refused(blobs):
    with pytest.raises(ValueError, match="checksum"):
        unpack(blobs)


def test_bytes_do_not_move_from_one_blob_to_the_next():
    header, body, first, second, checksum = pack({}, [b"ab", b"c"])
    with pytest.raises(ValueError, match="checksum"):
        unpack([header, body, first + second[:1], second[1:], checksum])


def forged(head, body=b""):
    """A header made up, with the right checksum."""
    header = head if isinstance(head, bytes) else json.dumps(head).encode()
    blobs = [header, zlib.compress(body)]
    return [*blobs, layout._checksum(blobs)]


def header(tree=None, arrays=(), version=layout.VERSION):
    return {"version": version, "arrays": list(arrays), "tree": {} if tree is None else tree}


FORGED = {
    "no JSON": (b"\xff\xfe", b"", "no JSON"),
    "JSON of endless depth": (b"[" * 100_000, b"", "no JSON"),
    "an endless number": (b'{"version":' + b"1" * 100_000 + b"}", b"", "no JSON"),
    "a list": ([1], b"", "no version"),
    "no version": ({"tree": {}}, b"", "no version"),
    "a version of words": (header(version="1"), b"", "no version"),
    "a version that is a truth": (header(version=True), b"", "no version"),
    "no tree": ({"version": 1, "arrays": []}, b"", "does not hold together"),
    "arrays that are none": ({"version": 1, "arrays": 3, "tree": {}}, b"", "does not hold together"),
    "an unknown type": (header(arrays=[{"dtype": "object", "shape": [1]}]), b"x", "does not hold together"),
    "a type that is no name": (header(arrays=[{"dtype": ["float32"], "shape": [1]}]), b"x", "does not hold together"),
    "a negative side": (header(arrays=[{"dtype": "int8", "shape": [-1]}]), b"x", "cannot have the shape"),
    "a broken side": (header(arrays=[{"dtype": "int8", "shape": [1.5]}]), b"x", "cannot have the shape"),
    "a side that is a truth": (header(arrays=[{"dtype": "int8", "shape": [True]}]), b"x", "cannot have the shape"),
    "a huge side": (header(arrays=[{"dtype": "int8", "shape": [2**40]}]), b"x", "cannot have the shape"),
    "no shape": (header(arrays=[{"dtype": "int8", "shape": None}]), b"x", "has no shape"),
    "too many sides": (header(arrays=[{"dtype": "int8", "shape": [1] * 99}]), b"x", "has no shape"),
    "more than is there": (header(arrays=[{"dtype": "int8", "shape": [3]}]), b"xx", "other than the 3 bytes"),
    "less than is there": (header(arrays=[{"dtype": "int8", "shape": [1]}]), b"xx", "other than the 1 bytes"),
    "an array that is none": (header({"a": {"array": 7}}), b"", "does not hold together"),
    "an array by a name": (header({"a": {"array": "x"}}), b"", "does not hold together"),
    "nothing by huge sides": (
        header(arrays=[{"dtype": "int8", "shape": [0, *[2**31 - 1] * 9]}]),
        b"",
        "does not hold together",
    ),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_header_that_does_not_hold_together_is_refused(case):
    head, body, message = FORGED[case]
    with pytest.raises(ValueError, match=message):
        unpack(forged(head, body))


@pytest.mark.parametrize("shape", [[2**31 - 1] * 3, [2**30], [4_000_000]])
def test_hostile_sizes_are_refused_before_anything_is_made(shape):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"cannot hold the|other than the"):
            unpack(forged(header({"a": {"array": 0}}, [{"dtype": "float64", "shape": shape}]), bytes(10_000)))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_stream_larger_than_told_is_not_unrolled():
    blobs = forged(header({"a": {"array": 0}}, [{"dtype": "int8", "shape": [10]}]), bytes(50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="other than the 10 bytes"):
            unpack(blobs)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_body_that_is_no_stream_is_refused():
    blobs = [json.dumps(header(arrays=[{"dtype": "int8", "shape": [1]}])).encode(), b"nothing"]
    with pytest.raises(ValueError, match="no zlib stream"):
        unpack([*blobs, layout._checksum(blobs)])


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_version_is_refused_in_plain_words(version):
    with pytest.raises(UnknownVersion, match=rf"written in layout {version}.*reads layout 1.*pip install -U lightning-cam"):
        unpack(forged(header(version=version)))
