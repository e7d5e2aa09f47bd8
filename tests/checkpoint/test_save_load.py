import hashlib
import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from tests.tiny_model import run_state, save_checkpoint, tiny_llama
from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.checkpoint.save_load import load_moments, load_tensors, load_weights, weights_sha256, write_checkpoint
from tinyllama.errors import InputError


def test_round_trip_of_weights_and_moments(prepared_run: Path, tmp_path: Path):
    model = tiny_llama(seed=1)
    packed = torch.arange(12.0).view(4, 3)
    moments = {"exp_avg.a": packed[:1], "exp_avg.b": packed[1:], "exp_avg_sq.a": torch.full((3,), 0.5).bfloat16()}
    tensors = {form.WEIGHTS: dict(model.named_parameters()), form.OPTIMIZER: moments}
    state = run_state(model, "t")
    path = write_checkpoint(tmp_path, tensors, state, [prepared_run / "tokenizer" / "tokenizer.model"])

    form.check(path)
    assert form.read_state(path) == state
    other = tiny_llama(seed=2)
    load_weights(other, load_tensors(path / form.WEIGHTS), path)
    assert weights_sha256(other) == weights_sha256(model)
    found = {name: torch.zeros_like(value) for name, value in moments.items()}
    load_moments(path, found)
    assert all(torch.equal(found[name], value) for name, value in moments.items())
    assert load_tensors(path / form.OPTIMIZER)["exp_avg_sq.a"].dtype == torch.bfloat16


def test_same_state_gives_the_same_bytes(prepared_run: Path, tmp_path: Path):
    paths = [save_checkpoint(tmp_path / name, prepared_run / "tokenizer", tiny_llama()) for name in "ab"]
    first, second = ({file.name: file.read_bytes() for file in path.iterdir()} for path in paths)
    assert first == second


def test_hash_by_hand():
    module = nn.Module()
    module.register_parameter("b", nn.Parameter(torch.tensor([[1.0, -2.0]])))
    module.register_parameter("a", nn.Parameter(torch.tensor([0.5])))
    data = b"a(1,)" + struct.pack("<f", 0.5) + b"b(1, 2)" + struct.pack("<2f", 1.0, -2.0)
    assert weights_sha256(module) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("norm.weight"), "norm.weight is missing"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "extra is not part"),
        (lambda tensors: tensors.update({"norm.weight": torch.zeros(3)}), r"norm.weight has shape \(3,\)"),
    ],
)
def test_weights_of_another_network_are_refused(change, message: str):
    tensors = {name: value.detach().clone() for name, value in tiny_llama().named_parameters()}
    change(tensors)
    with pytest.raises(InputError, match=message):
        load_weights(tiny_llama(), tensors, Path("somewhere"))


def test_missing_moments_are_named(prepared_run: Path, tmp_path: Path):
    model = tiny_llama()
    path = save_checkpoint(tmp_path, prepared_run / "tokenizer", model)  # never stepped: it has no moments
    with pytest.raises(InputError, match=r"optimizer\.safetensors"):
        load_moments(path, {"exp_avg.norm.weight": torch.zeros(32)})


def test_a_moment_that_would_only_fit_by_being_repeated_is_refused(tmp_path: Path):
    save_file({"exp_avg.norm.weight": torch.ones(1)}, tmp_path / form.OPTIMIZER)
    with pytest.raises(InputError, match=r"optimizer\.safetensors"):
        load_moments(tmp_path, {"exp_avg.norm.weight": torch.zeros(32)})


def header_file(header: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


LIES = {
    "empty": b"",
    "too short": b"\x01\x02",
    "header longer than the file": header_file(b"{}", 2**40),
    "header not JSON": header_file(b"hello"),
    "offsets past the end": header_file(
        json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    ),
    "shape larger than the data": header_file(
        json.dumps({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}).encode(), data=b"\0" * 8
    ),
    "unknown dtype": header_file(
        json.dumps({"a": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 8]}}).encode(), data=b"\0" * 8
    ),
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00.",
}


@pytest.mark.parametrize("content", LIES.values(), ids=LIES.keys())
def test_a_lying_header_is_refused(content: bytes, tmp_path: Path):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.safetensors: not a complete safetensors file"):
        load_tensors(tmp_path / "x.safetensors")


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_of_the_header_is_refused_or_read(data: st.DataObject, tmp_path: Path):
    path = tmp_path / "x.safetensors"
    save_file({"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(3)}, path)
    content = bytearray(path.read_bytes())
    header_bytes = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, header_bytes - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content))
    try:
        found = load_tensors(path)
    except InputError:
        return  # refused, in the one way that the user is told about
    assert sum(value.nbytes for value in found.values()) <= len(content)


def test_missing_file(tmp_path: Path):
    with pytest.raises(InputError, match="no such file"):
        load_tensors(tmp_path / "none.safetensors")
