"""Images and labels as NumPy arrays."""
