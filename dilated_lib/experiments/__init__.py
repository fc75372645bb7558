"""What the book measured: each experiment writes one file in ``book/results``.

A recorder writes them (``recorder.py``), and all that trains on stored maps does so in
one loop (``shape_training.descend``). The long trainings are the runs of one plan
(``plan.py``). Nothing here knows a notebook.
"""
