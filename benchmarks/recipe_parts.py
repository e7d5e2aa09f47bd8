"""What `recipe_search.py` tries (optimizers, schedules, initialisations, weight averages), and the tables of its results.

Letters: n matrices of one shape, R rows (outputs), C columns (inputs).

    python benchmarks/recipe_parts.py    # holds Muon here against torch.optim.Muon, on the CPU
"""

import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor, nn

from tinyllama.model.llama import Llama
from tinyllama.model.packed_llama import PackedLlama, PackedParameter
from tinyllama.seeds import derive_seed

# Five quintic steps: Keller Jordan's one triple, and Polar Express (Amsel et al. 2025, with a safety factor of 1.02).
NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


@dataclass(frozen=True)
class Setting:
    """One run: everything that its result depends on, but the data. Defaults are TinyLlama's where it has them."""

    network: str = "60m"
    tokens: int = 20_000_000
    tokens_per_step: int = 65_536
    optimizer: str = "adamw"  # | muon: for the layers' matrices; AdamW for the rest
    lr: float = 4e-4
    weight_decay: float = 0.1  # of matrices, not of norms and the embedding
    schedule: str = "cosine"  # to a tenth | linear: to zero | wsd: constant, then linear to zero
    warmup_share: float = 0.1  # of the steps
    cooldown_share: float = 0.5  # of the steps, of wsd
    init: str = "today"  # | zero_out: o and down begin at zero | depth: they begin at small_init / sqrt(2 n_layers)
    embedding_std: float = 0.0  # 0: today's
    head_std: float = -1.0  # below 0: today's
    embedding_lr: float = 1.0  # times `lr`
    head_lr: float = 1.0
    head_decay: float = 1.0  # times `weight_decay`
    beta1: float = 0.9
    beta2: float = 0.95
    momentum: float = 0.95
    orthogonal: str = "newton_schulz"  # | polar_express
    normuon: bool = False
    cautious: bool = False  # decay only where update and weight have one sign (of Muon's matrices)
    max_grad_norm: float = 1.0
    seed: int = 1

    @property
    def steps(self) -> int:
        """Updates of the run."""
        return max(1, self.tokens // self.tokens_per_step)


def lr_share(setting: Setting, step: int) -> float:
    """Learning rate of update `step`, counted from 1, as a share of the peak."""
    steps = setting.steps
    warmup = max(1, round(setting.warmup_share * steps))
    if step <= warmup:
        return step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    if setting.schedule == "cosine":
        return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))
    left = (steps + 1 - step) / steps
    if setting.schedule == "linear":
        return left / (1 - (warmup - 1) / steps)
    assert setting.schedule == "wsd", setting.schedule
    return min(1.0, left / setting.cooldown_share)


@torch.no_grad()
def initialise(model: Llama, setting: Setting) -> None:
    """The product's weights of this seed, then what the setting changes."""
    model.init_weights(derive_seed(setting.seed, "weights"))
    today = math.sqrt(2 / (5 * model.config.embedding_dim))
    if setting.embedding_std:
        model.embedding.weight.mul_(setting.embedding_std / today)
    if setting.head_std >= 0 and model.head is not None:
        model.head.weight.mul_(setting.head_std / today)
    for layer in model.layers:
        block: Any = layer
        for matrix in (block.attention.o.weight, block.feed_forward.down.weight):
            if setting.init == "zero_out":
                matrix.zero_()
            elif setting.init == "depth":
                now = 1 / (math.sqrt(model.config.dim) * model.config.n_layers)
                wanted = math.sqrt(2 / (5 * matrix.shape[1])) / math.sqrt(2 * model.config.n_layers)
                matrix.mul_(wanted / now)
            else:
                assert setting.init == "today", setting.init


def orthogonalize(stack: Tensor, kind: str = "newton_schulz") -> Tensor:
    """The nearest (half-)orthogonal matrices to those of (n, R, C), R <= C, roughly, in bf16."""
    polar = kind == "polar_express"
    x = stack.bfloat16()
    norm = x.norm(dim=(1, 2), keepdim=True)
    x = x / (norm * 1.02 + 1e-6 if polar else norm.clamp(min=1e-7))
    for a, b, c in POLAR_EXPRESS if polar else NEWTON_SCHULZ:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon:
    """Muon (Jordan et al. 2024) over packed matrices, each block by itself: Nesterov momentum, decoupled decay.

    An update has the size of AdamW's: x 0.2 sqrt(max(R, C)) (Liu et al. 2025). NorMuon (Li et al. 2025) divides each row
    by the root of its mean square over time; cautious decay after Chen et al. 2025.
    """

    def __init__(self, packed: list[PackedParameter], setting: Setting) -> None:
        self._packed, self._setting = packed, setting
        self._momentum = [torch.zeros_like(parameter.master) for parameter in packed]
        self._weights = self._blocks([parameter.master for parameter in packed])
        self._by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, weight in enumerate(self._weights):
            self._by_shape[min(weight.shape), max(weight.shape)].append(number)
        self._rows = [torch.zeros(len(weight), 1, device=weight.device) for weight in self._weights]

    def _blocks(self, tensors: list[Tensor]) -> list[Tensor]:
        """Each matrix's own part of the packed tensors: views."""
        pairs = zip(self._packed, tensors, strict=True)
        return [block for parameter, tensor in pairs for block in tensor.split(parameter.rows)]

    @torch.no_grad()
    def step(self, gradients: list[Tensor], lr: float) -> None:
        """Update the masters; gradients in fp32, like `packed`."""
        kept = self._setting.momentum
        torch._foreach_lerp_(self._momentum, gradients, 1 - kept)  # pyright: ignore[reportPrivateImportUsage]
        nesterov = torch._foreach_lerp(gradients, self._momentum, kept)  # pyright: ignore[reportPrivateImportUsage]
        blocks = self._blocks(list(nesterov))
        updates: list[Any] = [None] * len(blocks)
        for numbers in self._by_shape.values():
            is_tall = [len(blocks[n]) > blocks[n].shape[1] for n in numbers]
            stack = torch.stack([blocks[n].T if tall else blocks[n] for n, tall in zip(numbers, is_tall, strict=True)])
            made = orthogonalize(stack, self._setting.orthogonal).float()
            for n, tall, update in zip(numbers, is_tall, made.unbind(0), strict=True):
                updates[n] = update.T.contiguous() if tall else update
        if self._setting.normuon:
            updates = self._by_rows(updates)
        else:
            scales = [0.2 * math.sqrt(max(update.shape)) for update in updates]
            torch._foreach_mul_(updates, scales)  # pyright: ignore[reportPrivateImportUsage]
        decay = lr * self._setting.weight_decay
        if self._setting.cautious:
            for weight, update in zip(self._weights, updates, strict=True):
                weight.sub_(weight * (weight * update > 0), alpha=decay)
        else:
            torch._foreach_mul_(self._weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_add_(self._weights, updates, alpha=-lr)  # pyright: ignore[reportPrivateImportUsage]

    def _by_rows(self, updates: list[Tensor]) -> list[Tensor]:
        """NorMuon's: rows of equal size over time, the whole of root mean square 0.2."""
        squares = [update.square().mean(1, keepdim=True) for update in updates]
        torch._foreach_lerp_(self._rows, squares, 1 - self._setting.beta2)  # pyright: ignore[reportPrivateImportUsage]
        scaled = [update / (rows.sqrt() + 1e-8) for update, rows in zip(updates, self._rows, strict=True)]
        norms = torch._foreach_norm(scaled)  # pyright: ignore[reportPrivateImportUsage]
        return [
            update * (0.2 * math.sqrt(update.numel()) / (norm + 1e-8))
            for update, norm in zip(scaled, norms, strict=True)
        ]


class Updates:
    """One optimizer for each parameter, over the network's fp32 masters; the 16-bit copies are made anew after each."""

    def __init__(self, network: PackedLlama, setting: Setting) -> None:
        self._network, self._setting = network, setting
        packed = network.packed
        is_muon = [setting.optimizer == "muon" and parameter.names[0].startswith("layers.") for parameter in packed]
        is_muon = [hidden and parameter.master.dim() == 2 for hidden, parameter in zip(is_muon, packed, strict=True)]
        self._muons = [number for number, chosen in enumerate(is_muon) if chosen]
        self._adams = [number for number, chosen in enumerate(is_muon) if not chosen]
        self._muon = Muon([packed[n] for n in self._muons], setting) if self._muons else None
        self._leaves = [nn.Parameter(packed[n].master) for n in self._adams]
        groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        for n, leaf in zip(self._adams, self._leaves, strict=True):
            groups[self._decay(packed[n]), self._share(packed[n])].append(leaf)
        self._adam = torch.optim.AdamW(
            [{"params": leaves, "weight_decay": decay, "share": share} for (decay, share), leaves in groups.items()],
            lr=1.0,
            betas=(setting.beta1, setting.beta2),
            fused=packed[0].master.is_cuda,
        )

    def _share(self, parameter: PackedParameter) -> float:
        name = parameter.names[0]
        if name.startswith("embedding."):
            return self._setting.embedding_lr
        return self._setting.head_lr if name.startswith("head.") else 1.0

    def _decay(self, parameter: PackedParameter) -> float:
        name = parameter.names[0]
        if parameter.master.dim() < 2 or name.startswith("embedding."):
            return 0.0
        return self._setting.weight_decay * (self._setting.head_decay if name.startswith("head.") else 1.0)

    @torch.no_grad()
    def step(self, gradients: list[Tensor], lr: float) -> None:
        """Update all; `gradients` in fp32, already clipped, in the order of `network.packed`."""
        for n, leaf in zip(self._adams, self._leaves, strict=True):
            leaf.grad = gradients[n]
        for group in self._adam.param_groups:
            group["lr"] = lr * group["share"]
        self._adam.step()
        if self._muon is not None:
            self._muon.step([gradients[n] for n in self._muons], lr)
        refresh(self._network)


def refresh(network: PackedLlama) -> None:
    """The 16-bit copies anew, in one launch."""
    pairs = [(parameter.copy, parameter.master) for parameter in network.packed if parameter.copy is not None]
    if pairs:
        copies, masters = (list(column) for column in zip(*pairs, strict=True))
        torch._foreach_copy_(copies, masters)  # pyright: ignore[reportPrivateImportUsage]


class Averages:
    """Exponential averages of the masters, each over a share of the run's steps."""

    def __init__(self, network: PackedLlama, steps: int, shares: tuple[float, ...]) -> None:
        self._masters = [parameter.master for parameter in network.packed]
        self._new = {share: min(1.0, 1 / (share * steps)) for share in shares}
        self._begin = {
            share: max(1, round((1 - 3 * share) * steps)) for share in shares
        }  # 3 horizons: 95% of the weight
        self.values: dict[float, list[Tensor]] = {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After update `step`, counted from 1."""
        for share, new in self._new.items():
            if step == self._begin[share]:
                self.values[share] = [master.clone() for master in self._masters]
            elif step > self._begin[share]:
                torch._foreach_lerp_(self.values[share], self._masters, new)  # pyright: ignore[reportPrivateImportUsage]


# -- tables ------------------------------------------------------------------------------------------------------------

TUNING_SEED = 1  # all trials have it; what is compared over seeds has others
Rows = list[dict[str, Any]]


def changes(row: dict[str, Any]) -> str:
    """What a run's setting has that the defaults have not, in words; without tokens and seed."""
    base = asdict(Setting())
    words = [f"{key}={row[key]:.4g}" if isinstance(row[key], float) else f"{key}={row[key]}"
             for key, value in base.items() if row[key] != value and key not in ("tokens", "seed")]  # fmt: skip
    return ", ".join(words) or "the defaults"


def with_error(values: list[float], digits: int = 4) -> str:
    """Mean and standard error; the error only of two and more."""
    error = f" ± {stdev(values) / math.sqrt(len(values)):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{error}"


def tokens_needed(curve: list[tuple[int, float]], loss: float) -> tuple[float, bool]:
    """Tokens of full runs that end at `loss`, by log-linear interpolation; and whether it lies outside the runs."""
    curve = sorted(curve)
    inside = [n for n in range(len(curve) - 1) if curve[n + 1][1] <= loss <= curve[n][1]]
    first = inside[0] if inside else (0 if loss > curve[0][1] else len(curve) - 2)
    (fewer, high), (more, low) = curve[first : first + 2]
    share = (high - loss) / (high - low)
    return math.exp(math.log(fewer) + share * math.log(more / fewer)), not inside


def report(rows: Rows, out: Path) -> None:
    """Every setting with the mean and standard error over its seeds, then the ratios of tokens; a picture into `out`."""
    trials = [row for row in rows if row["seed"] == TUNING_SEED]
    for row in sorted(trials, key=lambda row: (row["optimizer"], row["held_out"])):
        print(f"trial {row['held_out']:.4f}  {row['seconds']:5.1f} s  {changes(row)}")
    groups: dict[tuple[str, str, int], Rows] = defaultdict(list)
    for row in rows:
        if row["seed"] != TUNING_SEED:
            groups[row["network"], changes(row), row["tokens"]].append(row)
    ranked = sorted(groups.items(), key=lambda item: (item[0][0], -item[0][2], mean(r["held_out"] for r in item[1])))
    for (network, words, tokens), same in ranked:
        alone = [row["seconds"] for row in same if not row.get("shared_gpu")]  # timed with no other run beside it
        seconds = f"{with_error(alone, 1)} s" if alone else "not timed"
        print(
            f"{network} {tokens / 1e6:5.1f}M  {with_error([r['held_out'] for r in same])} n={len(same)}, {seconds}  {words}"
        )
    seeded = {key: same for key, same in groups.items() if len(same) > 1}
    ours = max((key for key in seeded if "muon" in key[1]), key=lambda key: (key[2], len(seeded[key])))
    curves: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for (network, words, _), same in groups.items():
        if (network, words) == ours[:2]:
            for row in same:
                curves[row["seed"]].append((row["tokens"], row["held_out"]))
    print(f"\nours: {ours[1]}")
    for key, same in seeded.items():
        if key[0] == ours[0] and key[2] == ours[2] and key != ours:
            _ratios(key[1], same, seeded[ours], curves)
    draw([(key, same) for key, same in ranked if len(same) > 1], out)


def _ratios(words: str, same: Rows, ours: Rows, curves: dict[int, list[tuple[int, float]]]) -> None:
    """A baseline's tokens over those that ours needs for the same loss: by pairs of a seed, and by the mean curve."""
    of_seed = {row["seed"]: row["held_out"] for row in ours}
    differences = [row["held_out"] - of_seed[row["seed"]] for row in same if row["seed"] in of_seed]
    long = {seed: curve for seed, curve in curves.items() if len(curve) > 2}
    found = [(row["tokens"], *tokens_needed(long[row["seed"]], row["held_out"])) for row in same if row["seed"] in long]
    by_pair = [tokens / needed for tokens, needed, _ in found]
    by_tokens: dict[int, list[float]] = defaultdict(list)
    for curve in long.values():
        for tokens, loss in curve:
            by_tokens[tokens].append(loss)
    average = [(tokens, mean(losses)) for tokens, losses in by_tokens.items() if len(losses) == len(long)]
    needed, is_outside = tokens_needed(average, mean(row["held_out"] for row in same))
    print(f"{words}\n  loss above ours, pairs {with_error(differences)} n={len(differences)}; tokens over ours', pairs "
          f"{with_error(by_pair, 2)} n={len(by_pair)}{' (one extrapolated)' if any(f[2] for f in found) else ''}; "
          f"of means {same[0]['tokens'] / needed:.2f}{' (extrapolated)' if is_outside else ''}")  # fmt: skip


def draw(groups: list[tuple[tuple[str, str, int], Rows]], out: Path) -> None:
    """Held-out loss against tokens of full runs, one line a setting, where matplotlib is installed."""
    try:
        from matplotlib import pyplot
    except ImportError:
        return
    lines: dict[str, list[tuple[float, Rows]]] = defaultdict(list)
    for (_, words, tokens), same in groups:
        lines[words].append((tokens / 1e6, same))
    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for words, points in lines.items():
        points.sort(key=lambda point: point[0])
        values = [[row["held_out"] for row in same] for _, same in points]
        errors = [stdev(losses) / math.sqrt(len(losses)) for losses in values]
        axes.errorbar([x for x, _ in points], [mean(v) for v in values], errors, fmt="o-", capsize=3, label=words)
    axes.set(xlabel="million tokens of a full run", ylabel="held-out loss, nats a token")
    axes.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(out / "tokens.png", dpi=110)


def check_muon() -> None:
    """Ten updates here and of torch.optim.Muon, on matrices of both orientations: the largest difference, relative."""
    torch.manual_seed(1)
    first = {"q": torch.randn(48, 32), "k": torch.randn(16, 32), "v": torch.randn(16, 32), "down": torch.randn(32, 88)}
    theirs = {name: nn.Parameter(value.clone()) for name, value in first.items()}
    masters = [torch.cat([first[name] for name in "qkv"]), first["down"].clone()]
    packed = [
        PackedParameter(("q", "k", "v"), (48, 16, 16), masters[0], nn.Parameter(masters[0]), None),
        PackedParameter(("down",), (32,), masters[1], nn.Parameter(masters[1]), None),
    ]
    ours = Muon(packed, Setting(optimizer="muon", weight_decay=0.1))
    judge = torch.optim.Muon(theirs.values(), lr=2e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(10):
        gradients = {name: torch.randn_like(value) for name, value in first.items()}
        for name, value in theirs.items():
            value.grad = gradients[name].clone()
        judge.step()
        ours.step([torch.cat([gradients[name] for name in "qkv"]), gradients["down"]], 2e-3)
    for name, part in {**packed[0].canonical(masters[0]), "down": masters[1]}.items():
        moved = (theirs[name].detach() - first[name]).norm() if name != "down" else (masters[1] - first["down"]).norm()
        print(f"{name:5} difference / distance moved {float((theirs[name] - part).detach().norm() / moved):.2e}")
    for kind in ("newton_schulz", "polar_express"):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(1, 64, 176), kind).float()[0])
        print(f"{kind:14} singular values {float(values.min()):.3f} to {float(values.max()):.3f}")


if __name__ == "__main__":
    check_muon()
