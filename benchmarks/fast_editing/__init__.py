"""Benchmark of edits in few model calls: Source Guidance and Inversion-Free Edit."""
