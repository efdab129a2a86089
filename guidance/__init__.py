"""Guidance cores: a trajectory and an intention become an edited sample. Torch only, no host."""
