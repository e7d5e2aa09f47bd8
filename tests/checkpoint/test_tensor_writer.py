from pathlib import Path

import torch
from safetensors.torch import load_file

from tinyllama import files
from tinyllama.checkpoint import tensor_writer
from tinyllama.checkpoint.tensor_writer import write_tensors


def test_the_library_reads_what_is_written(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tensor_writer, "CHUNK_BYTES", 10)  # so that pieces end inside tensors
    tensors = {
        "short": torch.arange(3.0).bfloat16(),
        "wide": torch.randn(5, 7),
        "one": torch.tensor(2.5),
        "half": torch.randn(3, 1, 2).half(),
        "nothing": torch.empty(0, 4),
    }
    sha256 = write_tensors(tmp_path / "x.safetensors", tensors)
    assert sha256 == files.sha256_file(tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
