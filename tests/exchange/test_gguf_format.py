"""The reader of GGUF files at the bounds of what it takes: exactly at each one, and one beyond."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tinyllama.errors import InputError
from tinyllama.exchange import gguf_format
from tinyllama.exchange.gguf_format import FORMATS, GgufFile, NumberList, is_gguf

U4, STRING, LIST = 4, 8, 9


def text(value: str | bytes) -> bytes:
    value = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(value)) + value


def number(value: int) -> bytes:
    return struct.pack("<II", U4, value)


def tensor(name: str, shape: tuple[int, ...], offset: int, kind: int = 0) -> bytes:
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, offset)


def write(
    path: Path,
    values: dict[str, bytes] | list[tuple[str, bytes]] = (),  # pyright: ignore[reportArgumentType]
    tensors: list[bytes] = (),  # pyright: ignore[reportArgumentType]
    data: bytes = b"",
    alignment: int = 32,
    version: int = 3,
) -> Path:
    pairs = list(values.items()) if isinstance(values, dict) else list(values)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
    head += b"".join(text(key) + value for key, value in pairs) + b"".join(tensors)
    path.write_bytes(head + bytes(-len(head) % alignment) + data)
    return path


def read(path: Path, **given: Any) -> dict[str, Any]:
    with GgufFile(write(path, **given)) as file:
        return file.metadata


def refused(path: Path, message: str, **given: Any) -> None:
    with pytest.raises(InputError, match=message):
        GgufFile(write(path, **given))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.gguf"


@pytest.mark.parametrize(
    ("kind", "form", "value"),
    [
        (0, "<B", 255),
        (1, "<b", -128),
        (2, "<H", 65_535),
        (3, "<h", -32_768),
        (4, "<I", 2**32 - 1),
        (5, "<i", -(2**31)),
        (6, "<f", 0.1),
        (10, "<Q", 2**64 - 1),
        (11, "<q", -(2**63)),
        (12, "<d", 0.1),
    ],
)
def test_every_kind_of_number_is_read_alone_and_in_a_list(path: Path, kind: int, form: str, value: float):
    one = struct.pack("<I", kind) + struct.pack(form, value)
    many = struct.pack("<IIQ", LIST, kind, 2) + struct.pack(form, 1) + struct.pack(form, value)
    found = read(path, values={"a": one, "b": many, "end": number(7)})
    assert (found["a"], found["end"]) == (value, 7)  # 0.1 and not 0.10000000149
    assert isinstance(found["b"], NumberList)
    assert found["b"].values.tolist() == [1, pytest.approx(value)]


def test_texts_truths_and_their_lists_are_read(path: Path):
    values = {
        "text": struct.pack("<I", STRING) + text("π"),
        "no": struct.pack("<I", 7) + b"\0",
        "yes": struct.pack("<I", 7) + b"\x01",
        "texts": struct.pack("<IIQ", LIST, STRING, 2) + text("") + text("b"),
        "truths": struct.pack("<IIQ", LIST, 7, 3) + b"\1\0\1",
        "none": struct.pack("<IIQ", LIST, STRING, 0),
    }
    found = read(path, values=values)
    assert found.pop("truths").values.tolist() == [True, False, True]
    assert found == {"text": "π", "no": False, "yes": True, "texts": ["", "b"], "none": []}


@pytest.mark.parametrize("kind", [13, 9, 99])
def test_lists_of_other_kinds_are_refused(path: Path, kind: int):
    refused(path, f"a list of values of type {kind}", values={"a": struct.pack("<IIQ", LIST, kind, 1) + bytes(16)})


def test_a_text_that_is_not_utf_8_is_refused(path: Path):
    refused(path, "not UTF-8", values={"a": struct.pack("<I", STRING) + text(b"\xff")})


def test_versions_two_and_three_are_read(path: Path):
    assert read(path, version=2) == read(path, version=3) == {}
    for version in (1, 4):
        refused(path, f"GGUF version {version}; versions 2 and 3 are read", version=version)


def test_a_key_occurs_once(path: Path):
    refused(path, "key 'a' occurs twice", values=[("a", number(1)), ("a", number(1))])


@pytest.mark.parametrize("what", ["tensors", "metadata values"])
def test_a_hundred_thousand_entries_are_the_most(path: Path, what: str):
    counts = (100_000, 0) if what == "tensors" else (0, 100_000)
    for more, message in ((0, "truncated"), (1, f"100001 {what}; at most 100,000 are read")):
        n_tensors, n_values = (count + more * (count > 0) for count in counts)
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_values))
        with pytest.raises(InputError, match=message):
            GgufFile(path)


def test_strings_of_all_lists_together_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch):
    assert gguf_format.MAX_STRINGS == 4_000_000
    monkeypatch.setattr(gguf_format, "MAX_STRINGS", 5)

    def texts(count: int) -> bytes:
        return struct.pack("<IIQ", LIST, STRING, count) + text("x") * count

    assert read(path, values={"a": texts(2), "b": texts(3), "c": texts(0)})["b"] == ["x"] * 3
    refused(path, "more than 5 strings", values={"a": texts(2), "b": texts(4)})


@pytest.mark.parametrize(
    ("alignment", "is_read"), [(8, True), (16, True), (64, True), (4, False), (12, False), (0, False)]
)
def test_the_alignment_is_the_files_own(path: Path, alignment: int, is_read: bool):
    given: dict[str, Any] = {"values": {"general.alignment": number(alignment)}, "alignment": alignment or 1}
    second = max(alignment, 8)
    given |= {"tensors": [tensor("a", (2,), 0), tensor("b", (2,), second)]}
    data = struct.pack("<2f", 1, 2) + bytes(second - 8) + struct.pack("<2f", 3, 4)
    if not is_read:
        refused(path, "general.alignment", **given, data=data)
        return
    with GgufFile(write(path, **given, data=data)) as file:
        assert [file.tensor(name).tolist() for name in "ab"] == [[1, 2], [3, 4]]
    refused(path, "tensor b is outside", **given, data=data[:-1])  # a byte is missing
    given["tensors"] = [tensor("a", (2,), 0), tensor("b", (2,), second + 4)]
    refused(path, "tensor b .* not aligned", **given, data=data + bytes(9))


def test_an_alignment_that_is_no_whole_number_is_refused(path: Path):
    value = struct.pack("<I", STRING) + text("32")
    refused(path, "general.alignment: '32'", values={"general.alignment": value})


def test_tensors_may_touch_and_not_overlap_whatever_their_order(path: Path):
    data = struct.pack("<16f", *range(16))
    touching = [tensor("late", (8,), 32), tensor("early", (8,), 0)]
    with GgufFile(write(path, tensors=touching, data=data)) as file:
        assert file.tensor("early").tolist() == list(range(8))
        assert file.tensor("late").tolist() == list(range(8, 16))
    refused(path, "late is outside", tensors=[tensor("late", (8,), 32), tensor("early", (9,), 0)], data=data)
    refused(
        path, "more is outside", tensors=[touching[0], touching[1], tensor("more", (1,), 32)], data=data + bytes(32)
    )
    refused(path, "early occurs twice", tensors=[tensor("early", (8,), 32), touching[1]], data=data)


def test_shapes_begin_with_the_rows_and_have_one_to_four_sizes(path: Path):
    shapes = {"a": (6,), "b": (3, 2), "c": (1, 2, 3), "d": (1, 1, 2, 3)}
    tensors = [tensor(name, shape, 32 * n) for n, (name, shape) in enumerate(shapes.items())]
    data = b"".join(struct.pack("<6f", *range(6)) + bytes(8) for _ in shapes)
    with GgufFile(write(path, tensors=tensors, data=data)) as file:
        assert file.shapes == {"a": (6,), "b": (2, 3), "c": (3, 2, 1), "d": (3, 2, 1, 1)}
        assert file.tensor("b").tolist() == [[0, 1, 2], [3, 4, 5]]
    for shape in ((), (1, 1, 1, 1, 1)):
        refused(path, f"tensor a has {len(shape)} dimensions", tensors=[tensor("a", shape, 0)], data=data)
    for size in (0, 2**40):
        refused(path, "tensor a has shape", tensors=[tensor("a", (size, 1), 0)], data=data)
        refused(path, "tensor a has shape", tensors=[tensor("a", (1, size), 0)], data=data)
    refused(path, "is outside", tensors=[tensor("a", (2**40 - 1,), 0)], data=data)


def test_rows_of_blocks_and_the_bytes_that_they_take(path: Path):
    sizes = {"f32": 128, "f16": 64, "q4_0": 18, "q4_1": 20, "q8_0": 34, "bf16": 64}  # of 32 values
    assert {f.name: 32 // f.values * f.nbytes for f in FORMATS.values()} == sizes
    assert {kind: f.name for kind, f in FORMATS.items()} == {
        0: "f32",
        1: "f16",
        2: "q4_0",
        3: "q4_1",
        8: "q8_0",
        30: "bf16",
    }
    for kind, number_format in FORMATS.items():
        nbytes = 2 * sizes[number_format.name]
        whole: dict[str, Any] = {"tensors": [tensor("a", (32, 2), 0, kind)]}
        with GgufFile(write(path, **whole, data=bytes(nbytes))) as file:
            assert torch.equal(file.tensor("a"), torch.zeros(2, 32))
            assert file.tensor("a").dtype == torch.float32
        refused(path, "is outside", **whole, data=bytes(nbytes - 1))
        if number_format.values > 1:
            message = r"rows of 16 values, no multiple of 32"
            refused(path, message, tensors=[tensor("a", (16, 2), 0, kind)], data=bytes(nbytes))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_values_that_are_not_finite_are_refused_when_one_is(path: Path, bad: float):
    with GgufFile(write(path, tensors=[tensor("a", (2,), 0)], data=struct.pack("<2f", 1, bad))) as file:  # noqa: SIM117
        with pytest.raises(InputError, match="tensor a holds values that are not finite"):
            file.tensor("a")


def test_a_file_that_ends_a_byte_early_is_cut_off(path: Path):
    content = write(path, values={"a": number(1)}, alignment=1).read_bytes()
    with GgufFile(path) as file:
        assert file.metadata == {"a": 1}
    for length in (4, 8, 23, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="truncated"):
            GgufFile(path)


def test_what_is_no_gguf(path: Path, tmp_path: Path):
    assert not is_gguf(path)
    assert not is_gguf(tmp_path)
    with pytest.raises(InputError, match=r"x.gguf: no such file"):
        GgufFile(path)
    for content, message in ((b"", "cannot be read"), (b"GGUX" + bytes(20), "not a GGUF file"), (b"GGU", "truncated")):
        path.write_bytes(content)
        assert not is_gguf(path)
        with pytest.raises(InputError, match=message):
            GgufFile(path)
    assert is_gguf(write(path))


def test_a_file_is_closed_after_use_and_after_a_fault(path: Path, monkeypatch: pytest.MonkeyPatch):
    closed: list[bool] = []
    whole = GgufFile.close
    monkeypatch.setattr(GgufFile, "close", lambda self: (closed.append(True), whole(self))[1])
    with GgufFile(write(path)) as file:
        assert not file._map.closed
    assert file._map.closed
    refused(path, "version", version=9)
    assert closed == [True]


def test_a_long_name_is_cut_in_what_is_said(path: Path):
    with pytest.raises(InputError) as caught:
        GgufFile(write(path, tensors=[tensor("n" * 1000, (0,), 0)]))
    assert len(str(caught.value)) == len(f"{path}: ") + 300
