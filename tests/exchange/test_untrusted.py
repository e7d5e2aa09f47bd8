"""Files of strangers: whatever is in them, they open or one line says what is wrong, and memory stays bounded."""

import json
import resource
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tiny_model import make_run, random_tokens, tiny_llama
from tinyllama.errors import InputError
from tinyllama.exchange.gguf import export_gguf
from tinyllama.exchange.gguf_format import GgufFile, NumberList, dequantise
from tinyllama.exchange.gguf_tokenizer import tokenizer_from_metadata
from tinyllama.exchange.hugging_face import export_hugging_face
from tinyllama.exchange.open_model import open_model

MAX_GROWTH_BYTES = 300_000_000
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([0, 1, 2, 48, 2**31, 2**63])
    | st.floats()
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def model_folder(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder and, in `gguf`, the same model as a GGUF."""
    folder = tmp_path_factory.mktemp("untrusted")
    opened = open_model(make_run(prepared_run, folder / "run", tiny_llama()), "cpu")
    export_hugging_face(opened, folder / "hf")
    export_gguf(opened, folder / "gguf", "q8_0")
    return folder


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """The process may not have taken much more memory when the test is over than when it began."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MAX_GROWTH_BYTES


def opens_or_says_why(path: Path) -> None:
    try:
        opened = open_model(path, "cpu")
    except InputError as error:
        check_line(error)
    else:
        assert opened.model(random_tokens(1, 4, opened.config.vocab_size)).shape == (1, 4, opened.config.vocab_size)


def check_line(error: InputError) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 1000


def fresh_copy(source: Path, folder: Path, name: str) -> Path:
    shutil.copytree(source, folder / name, dirs_exist_ok=True)
    return folder / name


# -- safetensors -----------------------------------------------------------------------------------------------------------


def write_safetensors(path: Path, header: dict[str, Any], data: bytes, size: int | None = None) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)


def read_safetensors(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    "lie",
    [
        lambda header: header[NORM].update(shape=[2**40, 2**40]),
        lambda header: header[NORM].update(shape=[33]),
        lambda header: header[NORM].update(shape=[-32]),
        lambda header: header[NORM].update(dtype="F64"),
        lambda header: header[NORM].update(dtype="F3"),
        lambda header: header[NORM].update(data_offsets=[0, 128]),
        lambda header: header[NORM].update(data_offsets=[2**60, 2**60 + 128]),
        lambda header: header[NORM].update(data_offsets=[128, 0]),
        lambda header: header.update({NORM: 7}),
        lambda header: header.pop(NORM),
        lambda header: header.update(extra={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
    ],
)
@pytest.mark.usefixtures("bounded_memory")
def test_a_safetensors_header_that_lies(model_folder: Path, tmp_path: Path, lie: Callable[[dict[str, Any]], Any]):
    folder = fresh_copy(model_folder / "hf", tmp_path, "model")
    header, data = read_safetensors(folder / "model.safetensors")
    lie(header)
    write_safetensors(folder / "model.safetensors", header, data)
    with pytest.raises(InputError, match=r"model\.norm|model\.safetensors|extra"):
        open_model(folder, "cpu")


@pytest.mark.parametrize("size", [0, 1, 2**31, 2**63, 2**64 - 1])
@pytest.mark.usefixtures("bounded_memory")
def test_a_safetensors_header_of_a_lying_length(model_folder: Path, tmp_path: Path, size: int):
    folder = fresh_copy(model_folder / "hf", tmp_path, "model")
    header, data = read_safetensors(folder / "model.safetensors")
    write_safetensors(folder / "model.safetensors", header, data, size)
    with pytest.raises(InputError, match=r"model\.safetensors: not a complete safetensors file"):
        open_model(folder, "cpu")


@FUZZ
@given(data=st.data())
@pytest.mark.usefixtures("bounded_memory")
def test_any_damage_of_safetensors(model_folder: Path, tmp_path: Path, data: st.DataObject):
    folder = fresh_copy(model_folder / "hf", tmp_path, "model")
    header, tensors = read_safetensors(folder / "model.safetensors")
    name = data.draw(st.sampled_from(sorted(header)))
    if data.draw(st.booleans()) and name != "__metadata__":
        header[name][data.draw(st.sampled_from(["shape", "dtype", "data_offsets"]))] = data.draw(ANYTHING)
    else:
        header[data.draw(st.sampled_from([name, "new"]))] = data.draw(ANYTHING)
    write_safetensors(folder / "model.safetensors", header, tensors[: data.draw(st.integers(0, len(tensors)))])
    opens_or_says_why(folder)


@FUZZ
@given(key=st.data(), value=ANYTHING)
@pytest.mark.usefixtures("bounded_memory")
def test_any_setting_of_a_config(model_folder: Path, tmp_path: Path, key: st.DataObject, value: Any):
    folder = fresh_copy(model_folder / "hf", tmp_path, "model")
    config = json.loads((model_folder / "hf" / "config.json").read_text())
    name = key.draw(st.sampled_from([*sorted(config), "rope_scaling", "partial_rotary_factor"]))
    inner = key.draw(st.sampled_from(["rope_type", "type", "factor", "rope_theta", "low_freq_factor", None]))
    config[name] = value if inner is None else {**config["rope_parameters"], inner: value}
    (folder / "config.json").write_text(json.dumps(config))
    opens_or_says_why(folder)


# -- GGUF ------------------------------------------------------------------------------------------------------------------


def gguf_of(folder: Path) -> Path:
    return folder / "gguf" / "model-q8_0.gguf"


@FUZZ
@given(data=st.data())
@pytest.mark.usefixtures("bounded_memory")
def test_any_damage_of_a_gguf(model_folder: Path, tmp_path: Path, data: st.DataObject):
    content = bytearray(gguf_of(model_folder).read_bytes())
    header_bytes = len(content) - 2 * tiny_llama().config.n_parameters  # about; the rest is weights
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(header_bytes, 20_000)))
        new = data.draw(st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, b"\0" * 8]))
        content[at : at + len(new)] = new
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), data.draw(st.integers(0, len(content)))]))])
    opens_or_says_why(path)


def lying_gguf(path: Path, lie: str) -> None:
    """A GGUF of one norm and one matrix, true but for one thing."""
    n_values, n_tensors = (2**60 if lie == name else count for name, count in (("values", 1), ("tensors", 2)))
    length = 2**62 if lie == "string" else 7
    alignment = {"alignment": 0, "odd alignment": 7}.get(lie, 32)
    parts = [b"GGUF", struct.pack("<IQQ", 9 if lie == "version" else 3, n_tensors, n_values)]
    key = b"general.alignment"
    parts += [struct.pack("<Q", len(key)), key, struct.pack("<II", 99 if lie == "kind" else 4, alignment)]
    for number, name in enumerate((b"first.w", b"other.w")):
        rows = 2**50 if lie == "shape" else 33 if lie == "size" and number else 8
        kind = {"type": 77, "blocks": 8}.get(lie, 0)
        offset = {"overlap": 0, "offset": 2**63, "place": 33}.get(lie, 32) if number else 0
        parts += [struct.pack("<Q", length), b"first.w" if lie == "twice" else name]
        parts.append(struct.pack("<IQIQ", 9 if lie == "dimensions" else 1, rows, kind, offset))
    head = b"".join(parts)
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(64))


LIES = {
    "version": "GGUF version 9",
    "values": "metadata values",
    "tensors": "tensors",
    "string": "truncated",
    "kind": "unknown type 99",
    "alignment": "general.alignment: 0",
    "odd alignment": "general.alignment: 7",
    "shape": "shape",
    "size": "other.w is outside",
    "type": "GGML type 77; f32, f16, q4_0, q4_1, q8_0, bf16 are read",
    "blocks": "rows of 8 values, no multiple of 32",
    "overlap": "other.w is outside of the file, overlaps another",
    "offset": "is outside",
    "place": "not aligned",
    "twice": "occurs twice",
    "dimensions": "9 dimensions",
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.usefixtures("bounded_memory")
def test_a_gguf_that_lies(tmp_path: Path, lie: str):
    lying_gguf(tmp_path / "x.gguf", lie)
    with pytest.raises(InputError, match=LIES[lie]):
        GgufFile(tmp_path / "x.gguf")
    lying_gguf(tmp_path / "x.gguf", "nothing")
    with GgufFile(tmp_path / "x.gguf") as file:
        assert file.shapes == {"first.w": (8,), "other.w": (8,)}
        assert torch.equal(file.tensor("other.w"), torch.zeros(8))


@FUZZ
@given(key=st.data(), value=ANYTHING)
def test_any_tokenizer_in_a_gguf(model_folder: Path, key: st.DataObject, value: Any):
    with GgufFile(gguf_of(model_folder)) as file:
        metadata = {name: found for name, found in file.metadata.items() if name.startswith("tokenizer.")}
    name = key.draw(st.sampled_from(sorted(metadata)))
    found = metadata[name]
    if isinstance(found, list | NumberList) and key.draw(st.booleans()):
        changed = list(found.values) if isinstance(found, NumberList) else list(found)
        changed[key.draw(st.integers(0, len(changed) - 1))] = key.draw(
            st.text(max_size=5) if isinstance(found, list) else st.floats() | st.integers(-9, 9)
        )
        metadata[name] = changed
    else:
        metadata[name] = value
    try:
        tokenizer = tokenizer_from_metadata(metadata, Path("x.gguf"))
    except InputError as error:
        check_line(error)
    else:
        tokenizer.decode(tokenizer.encode("Hello <s> 123"))


def test_quantised_blocks_by_hand():
    scale, least = struct.pack("<e", 0.5), struct.pack("<e", -2.0)
    halves = bytes(low | (15 - low) << 4 for low in range(16))
    numbers = [*range(16), *range(15, -1, -1)]
    assert dequantise(scale + halves, "q4_0").tolist() == [0.5 * (number - 8) for number in numbers]
    assert dequantise(scale + least + halves, "q4_1").tolist() == [0.5 * number - 2 for number in numbers]
    signed = bytes(number & 255 for number in range(-16, 16))
    assert dequantise(scale + signed, "q8_0").tolist() == [0.5 * number for number in range(-16, 16)]
    assert dequantise(struct.pack("<HH", 0x3F80, 0xC040), "bf16").tolist() == [1.0, -3.0]
    assert dequantise(struct.pack("<ee", 1.5, -2.0), "f16").tolist() == [1.5, -2.0]
