"""Find and parse the source of classes without importing them or their packages."""

import ast
import sys
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Source:
    """Hold the source of a class: the name of its module, the syntax tree of the module, and the class in it."""

    module: str
    tree: ast.Module
    node: ast.ClassDef


@cache
def _parsed(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_bytes())
    # ValueError: a NUL byte in the source.
    except (OSError, SyntaxError, ValueError):
        return None


def class_of(target: str) -> Source | None:
    """Return the source of `package.module:Class`; None if it cannot be found."""
    module, _, attribute = target.partition(":")
    for _ in range(5):  # a package may import the class from one of its modules
        path = _source_of(module)
        tree = None if path is None else _parsed(path)
        if path is None or tree is None:
            return None
        classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        if attribute in classes:
            return Source(module, tree, classes[attribute])
        imports = [(node, alias) for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
        origin = next((pair for pair in imports if (pair[1].asname or pair[1].name) == attribute), None)
        if origin is None:
            return None
        statement, alias = origin
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        # One dot is the package of the module itself.
        for _ in range(statement.level - 1):
            package = package.rpartition(".")[0]
        module = ".".join(part for part in (package if statement.level else "", statement.module or "") if part)
        attribute = alias.name
    return None


def literals(source: Source, depth: int = 5) -> dict[str, Any]:
    """Return the attributes in the body of a class and of its bases; None for an attribute that the source computes."""
    attributes: dict[str, Any] = {}
    # The first base has precedence, as in Python. `depth` ends a class that has its own name as its base.
    for base in reversed(source.node.bases):
        below = class_of(f"{source.module}:{base.id}") if isinstance(base, ast.Name) and depth else None
        if below is not None:
            attributes |= literals(below, depth - 1)
    for statement in source.node.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                attributes[name] = _literal(value)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                attributes[name] = _literal(value)
    return attributes


def _literal(value: ast.expr) -> Any:
    """Return the value of a literal, including `frozenset({...})`; None for an expression that must be computed."""
    try:
        match value:
            case ast.Call(func=ast.Name(id="frozenset"), args=[], keywords=[]):
                return frozenset()
            case ast.Call(func=ast.Name(id="frozenset"), args=[inner], keywords=[]):
                return frozenset(ast.literal_eval(inner))
        return ast.literal_eval(value)
    except (ValueError, TypeError):
        return None


def _source_of(module: str) -> Path | None:
    """Return the Python file of a module without running it or its packages."""
    folders: list[str] | None = None
    spec: ModuleSpec | None = None
    parts = module.split(".")
    # importlib.util.find_spec would import the packages above the module.
    for depth, part in enumerate(parts, 1):
        spec = _spec(".".join(parts[:depth]), folders)
        if spec is None:
            return None
        if spec.origin is None:  # a package without __init__.py may lie in several folders
            roots = sys.path if folders is None else folders
            folders = [str(Path(root, part)) for root in roots if Path(root, part).is_dir()]
        else:
            folders = list(spec.submodule_search_locations or ())
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _spec(name: str, folders: list[str] | None) -> ModuleSpec | None:
    specs = (finder.find_spec(name, folders) for finder in sys.meta_path if hasattr(finder, "find_spec"))
    return next((spec for spec in specs if spec is not None), None)
