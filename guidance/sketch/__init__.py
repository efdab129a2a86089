"""Sketch guidance: the edge predictor, its training, and the guided step."""
