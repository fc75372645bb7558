"""From a picture to its label map, and how good that is.

Part III of the book. Nothing here knows how a network is trained.
"""
