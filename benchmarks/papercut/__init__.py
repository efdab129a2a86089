"""Benchmark of the Papercut models."""
