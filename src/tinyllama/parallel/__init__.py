"""One network, many ranks."""
