"""Sketch guidance in the host: features, the edge gradient, the predictor's training."""
