"""Does a faster way to train end where the slow and obvious one does? Curves of one small network on real text.

    python benchmarks/loss_curves.py RUN --out curves                     # on a GPU: every variant, one after another
    python benchmarks/loss_curves.py RUN --out curves --only bf16 fp8     # some of them; --plot alone draws what is there

RUN holds `shards/` and `tokenizer/` (`tinyllama tokenizer train`, `tinyllama shards`). The network has 60.6M parameters
(dim 512, 15 layers, 8 heads over 4, tied head), sequences of 512, 65,536 tokens an update, 611 updates: 40M tokens. The
reference is the network as it is written (`model/llama.py`) under bf16 autocast, or with TF32 products: uncompiled, its
loss by autograd over whole logits, its optimizer PyTorch's. All others go through `Trainer`, as `pretrain` does. Same seed:
same first weights, same order of text. A second seed of the reference gives the noise. Each variant's last weights are
measured alike, by the network as it is written, in TF32, on the same held-out tokens.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from tinyllama import files
from tinyllama.evaluation.validation import validate
from tinyllama.model.llama import Llama
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.model.loss import next_token_loss
from tinyllama.seeds import derive_seed
from tinyllama.shards.batches import Batches, TokenShards
from tinyllama.tokenizer.bpe import Tokenizer
from tinyllama.train.lr_schedule import lr_schedule
from tinyllama.train.optimizer import clip_factor
from tinyllama.train.stop_requests import StopRequests
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.trainer import Trainer

NETWORK = LlamaConfig(
    seq_len=512, dim=512, n_layers=15, n_heads=8, n_kv_heads=4, ffn_dim=1408, tied_head=True, vocab_size=32_000
)
TRAIN: dict[str, Any] = {
    "steps": 611, "seq_len": 512, "tokens_per_step": 65_536, "micro_batch_size": 128, "precision": "fp32",
    "peak_lr": 6e-4, "min_lr": 6e-5, "warmup_steps": 120, "save_every_steps": 10**6, "validate_every_steps": 10**6,
}  # fmt: skip
# What differs from TRAIN; `reference` is the loop in this file, in the format that it names.
VARIANTS: dict[str, dict[str, Any]] = {
    "reference": {"reference": "bf16"},
    "reference, other seed": {"reference": "bf16", "seed": 43},
    "reference, tf32": {"reference": "tf32"},
    "tf32": {},
    "bf16": {"precision": "bf16"},
    "bf16, other seed": {"precision": "bf16", "seed": 43},
    "fp16": {"precision": "fp16"},
    "fp8": {"precision": "fp8"},
    "bf16, recompute, accumulation": {"precision": "bf16", "recompute": "full", "micro_batch_size": 32},
    "bf16, moments in bf16": {"precision": "bf16", "optimizer_state": "bf16"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--plot", action="store_true", help="only draw and tabulate what is there")
    parser.add_argument("--dry-run", action="store_true", help="a few updates of a tiny network, to try the script")
    options = parser.parse_args()
    torch.backends.fp32_precision = "tf32"
    network, changes = NETWORK, {}
    if options.dry_run:
        network = LlamaConfig(**{**NETWORK.to_dict(), "dim": 64, "head_dim": 8, "n_layers": 2, "ffn_dim": 96})
        changes = {
            "steps": 3,
            "tokens_per_step": 4096,
            "micro_batch_size": 4,
            "warmup_steps": 1,
            "validation_tokens": 2048,
        }
    options.out.mkdir(parents=True, exist_ok=True)
    for name in [] if options.plot else options.only:
        torch._dynamo.reset()  # each variant has compiled layers of its own
        values = TRAIN | VARIANTS[name] | changes
        started = time.perf_counter()
        run = reference_run if "reference" in values else trainer_run
        losses, model = run(network, values, options.run, options.out)
        held_out = measured(model, options.run, 4096 if options.dry_run else None)
        result = {
            "name": name,
            "losses": losses,
            "held_out": held_out,
            "seconds": round(time.perf_counter() - started, 1),
        }
        files.write_json(options.out / f"{name.replace(', ', '_').replace(' ', '_')}.json", result)
        print(json.dumps({**result, "losses": losses[-1]}), flush=True)
        del model
    summarize(options.out)


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "reference"}


def reference_run(network: LlamaConfig, values: dict[str, Any], run: Path, _: Path) -> tuple[list[float], Llama]:
    """The slow and obvious loop, with PyTorch's parts."""
    train = TrainConfig(**_known(values))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.device(device):
        model = Llama(network)
    model.init_weights(derive_seed(train.seed, "weights"))
    decayed = [
        value for name, value in model.named_parameters() if value.dim() > 1 and not name.startswith("embedding.")
    ]
    plain = [value for name, value in model.named_parameters() if value.dim() == 1 or name.startswith("embedding.")]
    groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(train.beta1, train.beta2), eps=train.adam_eps)
    schedule = lr_schedule(train, train.total_steps)
    seed = derive_seed(train.seed, "window order")
    batches = Batches(
        TokenShards(run / "shards" / "train"), train.seq_len, train.tokens_per_step // train.seq_len, seed
    )
    losses = []
    for step in range(train.total_steps):
        loss_sum = torch.zeros((), device=device)
        for number in range(train.micro_batches_per_step):
            batch = batches.micro_batch(step, number * train.micro_batch_size, train.micro_batch_size)
            tokens, targets = (torch.from_numpy(array).to(device) for array in batch[:2])
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=values["reference"] == "bf16"):
                sums = next_token_loss(model.hidden(tokens), model.output_weight, targets, chunk_tokens=16_384)
            sums.loss.backward()
            loss_sum += sums.loss.detach()
        gradients = [value.grad for value in model.parameters() if value.grad is not None]
        torch._foreach_mul_(gradients, 1 / train.tokens_per_step)  # pyright: ignore[reportPrivateImportUsage]
        factor = clip_factor(torch.nn.utils.get_total_norm(gradients), train.max_grad_norm)
        torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage]
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr_at(step + 1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss_sum / train.tokens_per_step)
    return torch.stack(losses).tolist(), model


def trainer_run(network: LlamaConfig, values: dict[str, Any], run: Path, out: Path) -> tuple[list[float], Llama]:
    """As `pretrain` trains; it is measured afterwards, as the reference is."""
    train = TrainConfig(**_known(values))
    folder = out / f"run_{time.time_ns()}"
    folder.mkdir()
    for name in ("shards", "tokenizer"):
        (folder / name).symlink_to((run / name).resolve())
    trainer = Trainer(network, train, folder)
    trainer._validate = lambda _: None  # pyright: ignore[reportAttributeAccessIssue]
    with StopRequests() as stops:
        trainer.train_to_the_end(stops)
    return [row["loss"] for row in files.read_jsonl(folder / "metrics.jsonl")], trainer.model


def measured(model: Llama, run: Path, max_tokens: int | None) -> float:
    """Mean nats a token on the held-out split, by the network as it is written, in fp32."""
    shards, tokenizer = TokenShards(run / "shards" / "validation"), Tokenizer.load(run / "tokenizer")
    seq_len = model.config.seq_len
    return validate(model, shards, tokenizer, seq_len=seq_len, batch_size=16, max_tokens=max_tokens)["loss"]


def summarize(out: Path) -> None:
    """A table of ends and differences, and the curves as a picture where matplotlib is installed."""
    results = {row["name"]: row for row in map(files.read_json, sorted(out.glob("*.json"))) if "losses" in row}
    base: Any = results.get("reference")
    for name, row in ((name, results[name]) for name in VARIANTS if name in results and base):
        share = row["held_out"] / base["held_out"] - 1
        training = sum(row["losses"][-50:]) / 50
        print(f"{name:30} held-out {row['held_out']:.4f} ({share:+.2%})  last 50 {training:.4f}  {row['seconds']} s")
    try:
        from matplotlib import pyplot
    except ImportError:
        return
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    for name, row in results.items():
        left.plot(
            range(1, len(row["losses"]) + 1), row["losses"], label=f"{name}: {row['held_out']:.4f}", linewidth=0.8
        )
        if base and row is not base and "other seed" not in name:
            difference = torch.tensor(row["losses"]) - torch.tensor(base["losses"])
            right.plot(range(1, len(difference) + 1), difference, label=name, linewidth=0.6)
    left.set(
        xlabel="update", ylabel="training loss, nats a token", ylim=(3.0, 8.0), title="loss; held-out in the legend"
    )
    right.set(xlabel="update", ylim=(-0.05, 0.05), title="difference from the reference")
    left.legend(fontsize=6)
    right.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(out / "loss_curves.png", dpi=110)


if __name__ == "__main__":
    main()
