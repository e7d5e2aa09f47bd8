"""Configuration of the tokenizer."""

from tinyllama.config import Config, setting


class TokenizerConfig(Config):
    """`[tokenizer]`: byte pair encoding with byte fallback, like Llama 2's."""

    vocab_size: int = setting(32_000, "Number of tokens, including 3 special and 256 byte tokens.", ge=260, le=2**20)
    character_coverage: float = setting(
        0.99995, "Share of the text's characters that get a token; others are encoded as bytes.", gt=0, le=1
    )
    max_training_bytes: int = setting(1_000_000_000, "If there is more text, documents are sampled.", ge=1)
    threads: int = setting(0, "Training threads; 0: all cores.", changes_result=False, ge=0)
