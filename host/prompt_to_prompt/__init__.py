"""Prompt-to-Prompt in the host: the attention patch and the tokens of its texts."""
