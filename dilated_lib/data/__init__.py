"""Data sets: pairs of a picture and its label map."""
