"""Benchmark of inversion and null text."""
