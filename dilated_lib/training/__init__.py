"""Training: the configuration of a run, its setup, loss, optimizer, loop and folder.

Part III of the book. Nothing here knows which experiments the book makes.
"""
