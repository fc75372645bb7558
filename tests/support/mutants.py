"""Small changes of a Python file that break it, as mutmut makes them.

mutmut takes another operator or number, leaves out an argument, puts False for True,
and so on. Not all of its changes can alter a result. These do not count:

- types, decorators, imports and ``__all__``
- text: sentences, errors, warnings, progress bars, what errors call a value (as in
  ``whole("stride", 2, 1)``), and the case of letters
- checks of the library on itself: ``assert``, ``zip(strict=True)``
- ``inplace``, ``persistent_workers``, and None where False was
"""

import ast
import difflib
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

TYPES = "Callable", "Mapping", "NDArray", "dict", "list", "tuple"
A_TYPE = m.Assign(
    value=m.Subscript(m.OneOf(*(m.Name(name) for name in TYPES)))
    | m.BinaryOperation(operator=m.BitOr(), right=m.Name("None"))
)
UNCOUNTED = ("inplace", "persistent_workers", "sides", "strict", "what")  # arguments
CHECKS = ("one_of", "pair", "positive", "whole", "wholes")  # of `dilated_lib.values`


class Counted(ast.NodeTransformer):
    """What is left of a file without the parts in which a change does not count."""

    def visit(self, node):
        match node:
            case ast.Raise() | ast.Assert() | ast.Import() | ast.ImportFrom():
                return ast.Pass()
            case ast.Assign(targets=[ast.Name("__all__")]):
                return ast.Pass()
            case ast.Call(func=ast.Attribute(ast.Name("warnings" | "logging"))):
                return ast.Constant(None)
            case ast.Call(ast.Name("tqdm"), [counted, *_]):
                return self.visit(counted)
            case ast.Call(ast.Name(name), [ast.Constant(), *rest]) if name in CHECKS:
                node.args = rest
            case ast.Constant(False):
                return ast.Constant(None)
            case ast.Constant(str(text)):
                return ast.Constant("" if " " in text.strip() else text.casefold())
            case ast.keyword(name) if name in UNCOUNTED:
                return None
        return self.generic_visit(node)


def meaning(code):
    """Equal for two versions of a file where their difference does not count."""
    return ast.dump(Counted().visit(ast.parse(code)))


class Changes(cst.CSTVisitor):
    """All that mutmut would change: a node, another for it, lines of the statement."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self):
        self.found, self.statement = [], None

    def on_visit(self, node):
        if isinstance(node, cst.Annotation | cst.Decorator) or m.matches(node, A_TYPE):
            return False
        if isinstance(node, cst.SimpleStatementLine):
            self.statement = node
        span = self.get_metadata(PositionProvider, self.statement or node)
        lines = range(span.start.line, span.end.line + 1)
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                self.found += [(node, new, lines) for new in operator(node)]
        return True

    def on_leave(self, node):
        if node is self.statement:
            self.statement = None


@dataclass(frozen=True)
class Mutant:
    """A broken file: its code, the lines of the broken statement, and what changed."""

    code: str
    lines: range
    change: str


def mutants(code: str, *, seed: int) -> Iterator[Mutant]:
    """Make every mutant of a file, in random order."""
    wrapper, changes = MetadataWrapper(cst.parse_module(code)), Changes()
    wrapper.visit(changes)
    random.Random(seed).shuffle(changes.found)
    known = {meaning(code)}
    for node, new, lines in changes.found:
        broken = wrapper.module.deep_replace(node, new).code
        with suppress(SyntaxError):
            if (found := meaning(broken)) not in known:
                known.add(found)
                rows = difflib.unified_diff(code.split("\n"), broken.split("\n"), n=0)
                change = [row for row in [*rows][2:] if not row.startswith("@@")]
                yield Mutant(broken, lines, "\n".join(change))
