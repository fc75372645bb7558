"""What the book measured: each module writes records that lie in ``book/results``.

Nothing here knows a notebook.
"""
