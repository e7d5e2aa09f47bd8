"""Networks of a few thousand parameters, and run folders that hold one, for the tests of several parts."""

import shutil
from pathlib import Path
from typing import Any

import torch

from tinyllama.checkpoint import save_load
from tinyllama.checkpoint.checkpoint_format import RunState
from tinyllama.model.llama import Llama
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.tokenizer.bpe import JSON_FILE, MODEL_FILE, Tokenizer

torch.set_num_threads(1)  # with tensors this small a second thread only waits for the first

TINY: dict[str, Any] = {
    "vocab_size": 512, "seq_len": 48, "dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "ffn_dim": 48,
}  # fmt: skip


def tiny_config(**changes: Any) -> LlamaConfig:
    """A small network's settings."""
    return LlamaConfig(**(TINY | changes))


def tiny_llama(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Llama:
    """A small network whose every parameter is random, norms too, large enough for plain differences."""
    model = Llama(tiny_config(**changes)).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.dim() == 1:
                parameter.copy_(1 + 0.2 * torch.randn(parameter.shape, generator=generator, dtype=dtype))
            else:
                values = torch.randn(parameter.shape, generator=generator, dtype=dtype)
                parameter.copy_(values / parameter.shape[1] ** 0.5)
    return model


def random_tokens(batch: int, length: int, vocab_size: int = 512, seed: int = 1) -> torch.Tensor:
    """Token ids (batch, length)."""
    return torch.randint(0, vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


def run_state(model: Llama, tokenizer_fingerprint: str, step: int = 3) -> RunState:
    """The state of a run at `step`."""
    return RunState(step, step * 100, model.config.to_dict(), {"seed": 1}, tokenizer_fingerprint, "shards", step, {})


def save_checkpoint(folder: Path, tokenizer: Path, model: Llama, step: int = 3) -> Path:
    """Write a checkpoint of `model` with the tokenizer's files into `folder`; returns its path."""
    files = [tokenizer / name for name in (MODEL_FILE, JSON_FILE)]
    state = run_state(model, Tokenizer.load(tokenizer).fingerprint, step)
    return save_load.save(folder, model, {}, state, files, keep=9)


def make_run(prepared_run: Path, out: Path, model: Llama | None = None) -> Path:
    """A copy of a prepared run folder with one checkpoint in it."""
    shutil.copytree(prepared_run, out)
    save_checkpoint(out / "checkpoints", out / "tokenizer", model or tiny_llama())
    return out
