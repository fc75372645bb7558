"""Dilated convolution, taken apart: the library behind the book.

The names in ``__init__.pyi`` are imported on first use, so ``import dilated_lib`` loads
neither torch nor matplotlib, and ``dilated_lib.compose`` never does.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
