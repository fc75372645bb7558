"""What a unit sees: by arithmetic, path by path, traced through any network, measured.

This is Part I of the book. ``windows``, ``arithmetic`` and ``paths`` need no torch, and
nothing here knows the paper.
"""
