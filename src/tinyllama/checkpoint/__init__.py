"""A run's saved state."""
