"""A bright ring around the picture."""
