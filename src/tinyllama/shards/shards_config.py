"""Configuration of token shards."""

from tinyllama.config import Config, setting


class ShardsConfig(Config):
    """`[shards]`: documents as token ids on disk."""

    max_shard_bytes: int = setting(1_000_000_000, "Maximum size of a shard file.", ge=1024)
