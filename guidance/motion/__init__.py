"""Motion Guidance: the guided DDIM loop and its losses."""
