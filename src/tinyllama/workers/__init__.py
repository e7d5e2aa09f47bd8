"""Work that may hang or crash, in supervised child processes."""
