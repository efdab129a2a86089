"""Pixel-True Finish: what an edit was not asked to change gets the pixels of the source back."""
