"""Text out of the network."""
