"""Benchmark of DiffEdit."""
