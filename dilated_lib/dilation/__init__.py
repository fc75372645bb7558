"""Dilated convolution: five ways to compute it, a layer, its cost, strides removed.

This is Part II of the book. Nothing here knows a whole network.
"""
