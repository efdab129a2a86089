"""Prompt-to-Prompt: the plan of an edit, token alignment, attention control and local blend."""
