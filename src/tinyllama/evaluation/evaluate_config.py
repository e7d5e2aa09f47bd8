"""Settings of evaluation."""

from tinyllama.config import Config, setting


class EvaluateConfig(Config):
    """`[evaluate]`: what is measured on the finished model."""

    last_word_examples: int = setting(500, "Held-out passages whose last word is predicted; 0: none.", ge=0)
    batch_size: int = setting(16, "Sequences per forward pass.", changes_result=False, ge=1)
