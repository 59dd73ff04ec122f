"""Several processes: their mathematics, their start and end, and functions run on ranks."""
