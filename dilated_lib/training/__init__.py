"""Training: the configuration of a run, its loss, its start, its loop and checkpoints.

Part III of the book. Nothing here knows which experiments the book makes.
"""
