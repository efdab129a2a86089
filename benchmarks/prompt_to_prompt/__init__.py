"""Benchmark of Prompt-to-Prompt."""
