"""Benchmark of Motion Guidance."""
