"""What tests need beside themselves: faults to plant, dry runs, answer keys; no product module imports them."""
