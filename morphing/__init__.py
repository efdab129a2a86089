"""Keyframes to frames: LoRA fit and mixture, attention blend, interpolation, reschedule. Torch only, never the host."""
