"""Benchmark of sketch guidance."""
