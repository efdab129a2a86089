"""Benchmark of Pixel-True Finish."""
