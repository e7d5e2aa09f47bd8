"""A run follows a plain PyTorch loop step by step: loss, norm, learning rate, weights, moments, validation.

The loop here shares with the program only the network's function, the random generators and the order of the windows. Its
clipping, schedule, AdamW, accumulation and z-loss are written out from the papers, in float64, and no constant is a default.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tinyllama import api, files
from tinyllama.checkpoint.save_load import load_tensors
from tinyllama.model.dropout import sample_keys
from tinyllama.model.llama import Llama
from tinyllama.recipe import Recipe, load_recipe
from tinyllama.seeds import derive_seed
from tinyllama.shards.batches import TokenShards
from tinyllama.shards.quarantine import RunOrder

STEPS, SEQUENCES, T = 8, 6, 16
COMMON: dict[str, Any] = {
    "tokenizer.vocab_size": 512, "model.preset": "tiny-2m", "model.dim": 32, "model.n_layers": 2, "model.ffn_dim": 48,
    "train.steps": STEPS, "train.seq_len": T, "train.micro_batch_size": 2, "train.tokens_per_step": SEQUENCES * T,
    "train.precision": "fp32", "train.device": "cpu", "train.save_every_steps": 1, "train.keep_checkpoints": 99,
    "train.beta1": 0.8, "train.beta2": 0.9, "train.adam_eps": 1e-2, "train.weight_decay": 0.7, "train.seed": 7,
    "train.peak_lr": 0.03, "train.min_lr": 0.006, "train.validate_every_steps": 3, "train.validation_tokens": 70,
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "cosine, clipped at some steps, z-loss, projections": {
        "train.warmup_steps": 2, "train.cooldown_steps": 2, "train.max_grad_norm": 1.35, "train.z_loss": 0.02,
        "model.embedding_dim": 24, "model.tied_head": False,
    },
    "constant rate, never clipped, dropout, tied": {
        "train.lr_schedule": "wsd", "train.warmup_steps": 3, "train.cooldown_steps": 3, "train.max_grad_norm": 0.0,
        "train.micro_batch_size": 3, "train.seed": 2**33 + 5, "model.dropout": 0.2, "model.attention_dropout": 0.1,
    },
}  # fmt: skip


def rate(step: int, values: dict[str, Any]) -> float:
    """Of update `step` from 1: up in a line, then half a cosine or level, then down in a line to 0 after the end."""
    warmup, cooldown = values["train.warmup_steps"], values["train.cooldown_steps"]
    peak, low, last = values["train.peak_lr"], values["train.min_lr"], STEPS - cooldown

    def middle(at: int) -> float:
        if values.get("train.lr_schedule") == "wsd":
            return peak
        return low + (peak - low) * (1 + math.cos(math.pi * (at - warmup) / (last - warmup))) / 2

    if step <= warmup:
        return peak * step / warmup
    return middle(step) if step <= last else middle(last) * (STEPS + 1 - step) / (cooldown + 1)


class PlainLoop:
    """The loop of a recipe whose values are `values`, on the shards of a run folder."""

    def __init__(self, run_dir: Path, values: dict[str, Any], recipe: Recipe) -> None:
        self.values, self.seed = values, values["train.seed"]
        self.model = Llama(recipe.llama_config()).double()
        drawn = Llama(recipe.llama_config())
        drawn.init_weights(derive_seed(self.seed, "weights"))
        self.model.load_state_dict(drawn.state_dict())
        self.weights = dict(self.model.named_parameters())
        self.first = {name: torch.zeros_like(value) for name, value in self.weights.items()}
        self.second = {name: torch.zeros_like(value) for name, value in self.weights.items()}
        shards = TokenShards(run_dir / "shards" / "train")
        self.tokens = shards.tokens(0, shards.n_tokens).astype(np.int64)
        self.order = RunOrder(shards.n_tokens // (T + 1), derive_seed(self.seed, "window order"), SEQUENCES)
        held_out = TokenShards(run_dir / "shards" / "validation")
        self.held_out = torch.from_numpy(held_out.tokens(0, held_out.n_tokens).astype(np.int64))

    def rows(self) -> Iterator[dict[str, Any]]:
        for step in range(1, STEPS + 1):
            yield self.step(step)

    def step(self, step: int) -> dict[str, Any]:
        size = self.values["train.micro_batch_size"]
        nats, hits = 0.0, 0
        self.model.zero_grad()
        for start in range(0, SEQUENCES, size):
            samples = range((step - 1) * SEQUENCES + start, (step - 1) * SEQUENCES + start + size)
            windows = [self.order.window(sample) * (T + 1) for sample in samples]
            ids = torch.from_numpy(np.array([self.tokens[first : first + T + 1] for first in windows]))
            keys = None
            if self.values.get("model.dropout"):
                keys = sample_keys(self.seed, step - 1, torch.tensor(list(samples)))
            logits = self.model(ids[:, :-1], dropout_keys=keys)  # (B, T, V)
            log_partition = logits.logsumexp(-1)
            wanted = logits.gather(-1, ids[:, 1:, None])[..., 0]
            loss = (log_partition - wanted).sum()
            squares = log_partition.square().sum()
            ((loss + self.values.get("train.z_loss", 0.0) * squares) / (SEQUENCES * T)).backward()
            nats += loss.item()
            hits += (logits.argmax(-1) == ids[:, 1:]).sum().item()
        lr, norm = rate(step, self.values), self.clip()
        self.adamw(step, lr)
        return {
            "step": step, "tokens": step * SEQUENCES * T, "loss": nats / (SEQUENCES * T),
            "accuracy": hits / (SEQUENCES * T), "grad_norm": norm, "lr": lr,
        }  # fmt: skip

    def clip(self) -> float:
        """Scale the gradient down to the recipe's norm (Pascanu et al. 2013); returns its norm before."""
        gradients = [value.grad for value in self.weights.values() if value.grad is not None]
        norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
        limit = self.values["train.max_grad_norm"]
        if limit and norm > limit:
            for gradient in gradients:
                gradient.mul_(limit / norm)
        return norm

    @torch.no_grad()
    def adamw(self, step: int, lr: float) -> None:
        """Loshchilov and Hutter 2019, algorithm 2; decay of matrices, not of norms and the embedding."""
        beta1, beta2, eps = (self.values[f"train.{key}"] for key in ("beta1", "beta2", "adam_eps"))
        for name, weight in self.weights.items():
            assert weight.grad is not None
            first, second = self.first[name], self.second[name]
            first.copy_(beta1 * first + (1 - beta1) * weight.grad)
            second.copy_(beta2 * second + (1 - beta2) * weight.grad**2)
            decay = 0.0 if weight.dim() == 1 or name == "embedding.weight" else self.values["train.weight_decay"]
            moved = first / (1 - beta1**step) / ((second / (1 - beta2**step)).sqrt() + eps)
            weight -= lr * moved + lr * decay * weight

    @torch.no_grad()
    def validation(self, n_targets: int) -> tuple[float, float]:
        """Mean nats and hits of the held-out split's first targets, in windows that share a border token."""
        nats, hits = 0.0, 0
        for start in range(0, n_targets, T):
            ids = self.held_out[start : min(start + T, n_targets) + 1]
            logits = self.model(ids[None, :-1])[0]
            nats += torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum").item()
            hits += (logits.argmax(-1) == ids[1:]).sum().item()
        return nats / n_targets, hits / n_targets


def distance(found: Tensor, wanted: Tensor) -> float:
    return ((found.double() - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("case", CASES)
def test_a_run_follows_the_plain_loop_step_by_step(small_run: Callable[[str], Path], case: str):
    values = COMMON | CASES[case]
    words, run_dir = [f"{key}={json.dumps(value)}" for key, value in values.items()], small_run("run")
    summary = api.pretrain("small-120m", run_dir, words).to_dict()
    loop = PlainLoop(run_dir, values, load_recipe("small-120m", words))
    begin = {name: value.detach().clone() for name, value in loop.weights.items()}
    norms = []
    for found, wanted in zip(files.read_jsonl(run_dir / "metrics.jsonl"), loop.rows(), strict=True):
        step = wanted["step"]
        norms.append(wanted["grad_norm"])
        assert {key: found[key] for key in wanted} == pytest.approx(wanted, rel=2e-5), f"step {step}"
        folder = run_dir / "checkpoints" / f"step_{step:08d}"
        weights, moments = load_tensors(folder / "weights.safetensors"), load_tensors(folder / "optimizer.safetensors")
        for name, value in loop.weights.items():
            assert distance(weights[name] - begin[name], value - begin[name]) < 1e-4, f"step {step}: {name}"
            assert distance(moments[f"exp_avg.{name}"], loop.first[name]) < 1e-4, f"step {step}: {name}"
            assert distance(moments[f"exp_avg_sq.{name}"], loop.second[name]) < 1e-4, f"step {step}: {name}"
        assert ("validation" in found) == (step in (3, 6, 8))
        if "validation" in found:
            n_targets = 70 if step < STEPS else len(loop.held_out) - 1
            figures, (loss, accuracy) = found["validation"], loop.validation(n_targets)
            assert (figures["tokens"], figures["accuracy"]) == (n_targets, pytest.approx(accuracy))
            assert (figures["loss"], figures["perplexity"]) == pytest.approx((loss, math.exp(loss)), rel=1e-5)
            assert set(figures["by_kind"]) == ({"web"} if step < STEPS else {"web", "book"})
    assert (summary["step"], summary["tokens"], summary["skipped_steps"]) == (STEPS, STEPS * SEQUENCES * T, 0)
    limit = values["train.max_grad_norm"]
    assert limit == 0 or min(norms) < limit < max(norms), "clipping must be active at some steps, not at all"
