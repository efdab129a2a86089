"""Inversion in the host: null text, inverted noise, the anchor."""
