"""What a run will need: time, memory, cost. Imports no torch."""
