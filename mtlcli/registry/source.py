"""Classes as they are written: found and read without importing them or the packages they are in."""

import ast
import sys
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Source:
    """A class as it is written: its module by name, the module's text as a tree, and the class within it."""

    module: str
    tree: ast.Module
    node: ast.ClassDef


@cache
def _parsed(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None


def class_of(target: str) -> Source | None:
    """`package.module:Class` as it is written; None where it is not to be found."""
    module, _, attribute = target.partition(":")
    for _ in range(5):  # a package may import the class from one of its modules
        path = _source_of(module)
        tree = None if path is None else _parsed(path)
        if path is None or tree is None:
            return None
        found = next((one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == attribute), None)
        if found is not None:
            return Source(module, tree, found)
        imports = [(one, alias) for one in tree.body if isinstance(one, ast.ImportFrom) for alias in one.names]
        origin = next(((one, alias) for one, alias in imports if (alias.asname or alias.name) == attribute), None)
        if origin is None:
            return None
        statement, alias = origin
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for _ in range(statement.level - 1):
            package = package.rpartition(".")[0]
        module = ".".join(part for part in (package if statement.level else "", statement.module or "") if part)
        attribute = alias.name
    return None


def literals(source: Source, depth: int = 5) -> dict[str, Any]:
    """The attributes in the body of a class and of those it derives from; None for one that the source computes."""
    found: dict[str, Any] = {}
    for base in reversed(source.node.bases):
        below = class_of(f"{source.module}:{base.id}") if isinstance(base, ast.Name) and depth else None
        if below is not None:
            found |= literals(below, depth - 1)
    for statement in source.node.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found[name] = _literal(value)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                found[name] = _literal(value)
    return found


def _literal(value: ast.expr) -> Any:
    """The value of a literal, `frozenset({...})` among them; None for what has to be computed."""
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
    """The Python file of a module, found without running it or the packages it is in."""
    places: list[str] | None = None
    spec: ModuleSpec | None = None
    parts = module.split(".")
    for depth, part in enumerate(parts, 1):
        spec = _spec(".".join(parts[:depth]), places)
        if spec is None:
            return None
        if spec.origin is None:  # a package without __init__.py may lie in several folders
            places = [str(Path(at, part)) for at in (sys.path if places is None else places) if Path(at, part).is_dir()]
        else:
            places = list(spec.submodule_search_locations or ())
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _spec(name: str, places: list[str] | None) -> ModuleSpec | None:
    specs = (finder.find_spec(name, places) for finder in sys.meta_path if hasattr(finder, "find_spec"))
    return next((spec for spec in specs if spec is not None), None)
