"""The network. Imports nothing of the project."""
