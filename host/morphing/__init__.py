"""Morphing in the host: LoRA fit and rows, attention blend, key pictures."""
