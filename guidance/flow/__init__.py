"""Flow fields in pixels of the picture: drawn, read, shown, and used to warp."""
