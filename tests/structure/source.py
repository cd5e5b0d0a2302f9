"""The source tree as its tests see it: modules with their syntax trees, scripts, documents. Nothing here runs the code."""

import ast
import io
import subprocess
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("lua", "service", "reconciler")
"""The packages that are installed."""
PROGRAMS = (*PRODUCT, "deploy", "tests", "bench", "client")
"""All Python that there is or will be."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A Python module: where it is, what it is called (`service.ledger` for `service/ledger/__init__.py`), what it says."""

    path: Path
    name: str
    text: str
    tree: ast.Module

    @property
    def place(self) -> str:
        """Its path below the root."""
        return str(self.path.relative_to(ROOT))

    @property
    def lines(self) -> int:
        """How long it is."""
        return len(self.text.splitlines())

    def functions(self) -> Iterator[tuple[Function, bool]]:
        """All functions at any depth, and whether each is a method."""
        for parent in ast.walk(self.tree):
            for child in ast.iter_child_nodes(parent):
                if isinstance(child, Function):
                    yield child, isinstance(parent, ast.ClassDef)

    def docstrings(self) -> set[ast.expr]:
        """The nodes that explain: docstrings, and texts that stand by themselves below a constant."""
        return {node.value for node in ast.walk(self.tree) if isinstance(node, ast.Expr) and _is_text(node.value)}

    def texts(self) -> Iterator[tuple[int, str]]:
        """Line and value of every text that is used, pieces of f-strings included and explanations left out."""
        explaining = self.docstrings()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in explaining:
                yield node.lineno, node.value

    def explanations(self) -> Iterator[tuple[int, str]]:
        """Line and text of every comment and docstring."""
        for node in self.docstrings():
            yield node.lineno, str(ast.literal_eval(node))
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string

    def identifiers(self) -> Iterator[tuple[int, str]]:
        """Line and name of whatever has been given a name here: modules, classes, functions, arguments, variables."""
        yield 1, self.path.parent.name if self.path.stem == "__init__" else self.path.stem
        for node in ast.walk(self.tree):
            match node:
                case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    # Names such as __slots__ are Python's.
                    if not name.startswith("__"):
                        yield node.lineno, name
                case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                    # Names such as __slots__ are Python's.
                    if not name.startswith("__"):
                        yield node.lineno, name


@cache
def modules(*packages: str) -> Sequence[Module]:
    """The modules of these packages."""
    return [_module(path) for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


@cache
def scripts() -> Sequence[Path]:
    """The scripts that run inside Redis, one verb each."""
    return sorted((ROOT / "lua").glob("*.lua"))


@cache
def documents() -> Sequence[Path]:
    """What is there for people to read."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "client").glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@cache
def tracked_files() -> Sequence[Path]:
    """All files of the repository, those included that will be part of it with the next commit."""
    # The owner of the folder may be another one than the tests run as, in a container for instance.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def _module(path: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    parts = path.relative_to(ROOT).with_suffix("").parts
    return Module(path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts), text, ast.parse(text))


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
