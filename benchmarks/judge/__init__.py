"""`make judge`: the pack on real checkpoints and the field's own benchmarks; see `run.py`."""
