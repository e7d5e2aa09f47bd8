"""Settings of token shards."""

from tinyllama.config import Config, setting


class ShardsConfig(Config):
    """`[shards]`: documents as token ids on disk."""

    max_shard_bytes: int = setting(1_000_000_000, "A new shard is begun before a file would grow beyond this.", ge=1024)
