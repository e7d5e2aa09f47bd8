"""Configuration of the network, presets, parameter and FLOP counts."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

ROPE_SCALINGS = ("none", "linear", "llama3")


@dataclass(frozen=True)
class LlamaConfig:
    """A Llama network. Letters: D dim, G n_kv_heads, H n_heads, K head_dim, F ffn_dim, V vocab_size, T seq_len, L n_layers.

    `embedding_dim` (0: dim) is the width of the input and output embeddings; if it differs from dim, two projections
    without bias connect them to the network. `rope_scaling` is `none`, `linear` or `llama3` (see rotary.py); the
    `rope_` values after it are its parameters.
    """

    vocab_size: int = 32_000
    seq_len: int = 2048
    dim: int = 2048
    n_layers: int = 22
    n_heads: int = 32
    n_kv_heads: int = 4
    head_dim: int = 0  # 0: dim / n_heads
    ffn_dim: int = 5632
    embedding_dim: int = 0  # 0: dim
    tied_head: bool = False
    rope_theta: float = 10_000.0
    rope_scaling: str = "none"
    rope_factor: float = 1.0  # linear and llama3: how many times longer the context became
    rope_low_freq_factor: float = 1.0  # llama3
    rope_high_freq_factor: float = 4.0  # llama3
    rope_original_seq_len: int = 8192  # llama3: the context before it became longer
    norm_eps: float = 1e-5
    dropout: float = 0.0  # embedding and residual
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "seq_len", "dim", "n_layers", "n_heads", "n_kv_heads", "ffn_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be at least 1")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads: {self.n_kv_heads} does not divide n_heads {self.n_heads}")
        if not self.head_dim:
            if self.dim % self.n_heads:
                raise ValueError(f"n_heads: {self.n_heads} does not divide dim {self.dim}; give head_dim")
            object.__setattr__(self, "head_dim", self.dim // self.n_heads)
        if self.head_dim % 2:
            raise ValueError(f"head_dim: {self.head_dim} must be even, because the rotary embedding rotates pairs")
        if not self.embedding_dim:
            object.__setattr__(self, "embedding_dim", self.dim)
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not in [0, 1)")
        self._check_rope()

    def _check_rope(self) -> None:
        if self.rope_scaling not in ROPE_SCALINGS:
            raise ValueError(f"rope_scaling: {self.rope_scaling!r} must be one of {', '.join(ROPE_SCALINGS)}")
        if not self.rope_factor >= 1:
            raise ValueError(f"rope_factor: {self.rope_factor} must be at least 1")
        if not 0 < self.rope_low_freq_factor < self.rope_high_freq_factor:
            raise ValueError(
                f"rope_low_freq_factor: {self.rope_low_freq_factor} must be above 0 and below rope_high_freq_factor "
                f"{self.rope_high_freq_factor}"
            )
        if self.rope_original_seq_len < 1:
            raise ValueError(f"rope_original_seq_len: {self.rope_original_seq_len} must be at least 1")

    @property
    def has_projections(self) -> bool:
        """Whether the embeddings have another width than the network."""
        return self.embedding_dim != self.dim

    def parameter_counts(self) -> dict[str, int]:
        """Number of parameters by component; the sum is the network's."""
        D, E = self.dim, self.embedding_dim
        attention = D * self.head_dim * (2 * self.n_heads + 2 * self.n_kv_heads)
        return {
            "embedding": self.vocab_size * E,
            "projections": 2 * D * E if self.has_projections else 0,
            "attention": self.n_layers * attention,
            "feed_forward": self.n_layers * 3 * D * self.ffn_dim,
            "norms": self.n_layers * 2 * D + D,
            "head": 0 if self.tied_head else self.vocab_size * E,
        }

    @property
    def n_parameters(self) -> int:
        """All parameters; a tied head counts once."""
        return sum(self.parameter_counts().values())

    @property
    def n_matmul_parameters(self) -> int:
        """N of the FLOP formulas: all parameters but the input embedding, which is a look-up; a tied head counts.

        The norms' (0.01%) are included, as in TinyLlama's own count.
        """
        counts = self.parameter_counts()
        head = self.vocab_size * self.embedding_dim
        return sum(counts.values()) - counts["embedding"] - counts["head"] + head

    def flops_per_token(self, convention: str = "causal", seq_len: int | None = None) -> int:
        """Floating-point operations of training for one token, forward and backward.

        `palm`: 6N + 12 L H K T (PaLM, Chowdhery et al. 2022, appendix B); `causal`: 6N + 6 L H K T, because a causal
        mask leaves half of the score matrix. H K is the width of attention, equal to D in most networks.
        """
        attention_factor = {"palm": 12, "causal": 6}[convention]
        width = self.n_heads * self.head_dim
        return 6 * self.n_matmul_parameters + attention_factor * self.n_layers * width * (seq_len or self.seq_len)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LlamaConfig":
        """The inverse of `to_dict`. Raises ValueError for an unknown name."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown model value {sorted(unknown)[0]!r}")
        return cls(**values)


# Keys of the recipe override single values of a preset.
PRESETS: dict[str, LlamaConfig] = {
    "tinyllama-1.1b": LlamaConfig(),
    "article-1.1b": LlamaConfig(dim=3072, n_layers=24, n_heads=16, n_kv_heads=4, ffn_dim=1920, embedding_dim=1536),
    "small-120m": LlamaConfig(dim=768, n_layers=12, n_heads=12, n_kv_heads=4, ffn_dim=2048, seq_len=1024),
    "tiny-2m": LlamaConfig(
        vocab_size=4096, seq_len=256, dim=192, n_layers=4, n_heads=4, n_kv_heads=2, ffn_dim=512, tied_head=True
    ),
}


def preset(name: str, **overrides: Any) -> LlamaConfig:
    """A preset with single values replaced. Raises KeyError for an unknown name."""
    base = PRESETS[name]
    if overrides.keys() & {"dim", "n_heads"} and "head_dim" not in overrides:
        overrides["head_dim"] = 0  # follows from dim and n_heads again
    if "dim" in overrides and "embedding_dim" not in overrides and not base.has_projections:
        overrides["embedding_dim"] = 0
    return replace(base, **overrides)
