"""Proof that a run cannot be lost."""
