"""Attention of the host's models: where it happens, how to change it for a model call, which rows a call has."""
