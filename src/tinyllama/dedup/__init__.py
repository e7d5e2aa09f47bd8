"""Duplicates over the whole corpus."""
