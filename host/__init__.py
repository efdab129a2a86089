"""The one room that knows ComfyUI's insides; nothing is imported here, so that a part can be had without the rest."""
