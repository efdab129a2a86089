"""Benchmark of DiffMorpher."""
