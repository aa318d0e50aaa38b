"""What plugins there are and what each takes, for `mtl plugins`.

Listing imports no plugin into this process: what a plugin does is read from its source, and whether a third party's one
works is tried in a child process, which may crash, hang or leave as it likes.
"""

import ast
import faulthandler
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mtlcli import registry
from mtlcli.errors import MtlError

SECONDS = 60.0
"""How long the import of one third-party plugin may take."""

DECLARED: dict[str, tuple[str, ...]] = {
    "tasks": ("pair", "target", "heads", "metrics", "files"),
    "heads": ("sides", "composition"),
    "schedulers": ("tasks_per_step", "chooses_rows", "cost"),
    "balancers": ("needs", "native_scale", "weighs_heads", "cost"),
    "gradient_regularizers": ("needs", "native_scale", "reads_rows", "cost"),
    "regularizers": ("needs", "cost"),
    "encoders": ("recommended",),
    "architectures": (),
    "metrics": ("measures", "higher_is_better", "bounds"),
}
"""The class attributes by which the plugins of a family say what they need and promise."""


@dataclass(frozen=True)
class Surveyed:
    """One line of `mtl plugins list`. `status` is `ok`, or `error: ` and what is wrong in one line.

    What follows the summary is what the source says outright: None where a family has no such attribute, or the source
    computes it. `paper` is where the method comes from, empty where the module does not say.
    """

    family: str
    name: str
    distribution: str
    version: str
    status: str
    summary: str
    native_scale: str | None = None
    needs: tuple[str, ...] | None = None
    tasks_per_step: str | None = None
    reads_rows: bool | None = None
    cost: str | None = None
    paper: str = ""


@dataclass(frozen=True)
class Described:
    """One plugin in full. `source` is file:line, `module` says where the method comes from, `text` what it does; `declares`
    holds (attribute, value) pairs, `options` (name, type, default, bounds, description) of each option."""

    family: str
    name: str
    distribution: str
    version: str
    source: str
    module: str
    text: str
    declares: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, str, str, str, str], ...]


def survey(families: Sequence[str]) -> list[Surveyed]:
    """Every plugin of these families, built-ins first. A broken one is a line among the others."""
    found = [entry for family in families for entry in registry.entries(family)]
    rivals = {
        entry: [other for other in found if other != entry and (other.family, other.name) == (entry.family, entry.name)]
        for entry in found
    }
    foreign = [entry for entry in found if entry.distribution != "mtlcli" and not rivals[entry]]
    status = dict(zip(foreign, _try_all(foreign), strict=True))
    for entry, others in rivals.items():
        if others:
            who = " and ".join(f"{other.distribution} {other.version}" for other in others)
            status[entry] = f"error: the name is also claimed by {who}"
    return [_surveyed(entry, status.get(entry, "ok")) for entry in found]


def _surveyed(entry: registry.Entry, status: str) -> Surveyed:
    """What the source of a plugin says; an attribute of the family's base holds where the plugin says nothing of it."""
    found, base = _class_of(entry.target), _class_of(registry.FAMILIES[entry.family].base)
    if found is None or base is None:
        return Surveyed(entry.family, entry.name, entry.distribution, entry.version, status, "")
    known = _literals(base) | _literals(found)
    scale, needs, tasks, cost = (known.get(name) for name in ("native_scale", "needs", "tasks_per_step", "cost"))
    rows = known.get("reads_rows")
    listed = needs if isinstance(needs, frozenset | set | tuple | list) else None
    return Surveyed(
        entry.family, entry.name, entry.distribution, entry.version, status,
        first_sentence(ast.get_docstring(found.node) or ""),
        native_scale=scale if isinstance(scale, str) else None,
        needs=None if listed is None else tuple(sorted(map(str, listed))),
        tasks_per_step=tasks if isinstance(tasks, str) else None,
        reads_rows=rows if isinstance(rows, bool) else None,
        cost=" ".join(cost.split()) if isinstance(cost, str) else None,
        paper=_paper(ast.get_docstring(found.tree) or ""),
    )  # fmt: skip


def _paper(docstring: str) -> str:
    """`Name: authors, venue year.` of a module -> `authors, venue year`; empty where the first paragraph names nothing."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    return paragraph.partition(": ")[2].removesuffix(".")


def first_sentence(docstring: str) -> str:
    """The first sentence of a docstring on one line, without its full stop."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])(?<!et al\.)\s+(?=[A-Z`(])", paragraph)[0].removesuffix(".")


# Reading without importing


@dataclass(frozen=True)
class _Source:
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


def _class_of(target: str) -> _Source | None:
    """`package.module:Class` as it is written; None where it is not to be found."""
    module, _, attribute = target.partition(":")
    for _ in range(5):  # a package may import the class from one of its modules
        path = _source_of(module)
        tree = None if path is None else _parsed(path)
        if path is None or tree is None:
            return None
        found = next((one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == attribute), None)
        if found is not None:
            return _Source(module, tree, found)
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


def _literals(source: _Source, depth: int = 5) -> dict[str, Any]:
    """The attributes in the body of a class and of those it derives from; None for one that the source computes."""
    found: dict[str, Any] = {}
    for base in reversed(source.node.bases):
        below = _class_of(f"{source.module}:{base.id}") if isinstance(base, ast.Name) and depth else None
        if below is not None:
            found |= _literals(below, depth - 1)
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


# Trying third parties' plugins in a child process


def _try_all(entries: Sequence[registry.Entry]) -> list[str]:
    """The status of each plugin. A child tries them in turn; where one ends it, another child goes on behind that one."""
    status: list[str] = []
    while len(status) < len(entries):
        rest = entries[len(status) :]
        lines, death = _run_child(rest)
        status += [_status(entry, line) for entry, line in zip(rest, lines, strict=False)]
        if len(lines) < len(rest):
            status.append(_status(rest[len(lines)], death))
    return status


def _status(entry: registry.Entry, problem: str) -> str:
    return f"error: {problem} (reinstall or uninstall {entry.distribution})" if problem else "ok"


def _run_child(entries: Sequence[registry.Entry]) -> tuple[list[str], str]:
    """What is wrong with each plugin that the child got to, empty where nothing is, and what ended the child before its time."""
    start = "import sys; sys.path[:] = sys.argv[1:]; from mtlcli.inspection import try_plugins; try_plugins()"
    request = json.dumps({"seconds": SECONDS, "plugins": [(entry.family, entry.target) for entry in entries]})
    with tempfile.TemporaryFile() as answers, tempfile.TemporaryFile() as noise:
        child = subprocess.run(
            [sys.executable, "-c", start, *sys.path], input=request.encode(), stdout=answers, stderr=noise, check=False
        )
        answers.seek(0)
        lines = [json.loads(line) for line in answers.read().splitlines()]
        noise.seek(0)
        if b"Timeout (" in noise.read()[-10_000:]:
            return lines, f"its import takes longer than {SECONDS:g} s"
    return lines, f"its import ends the process with code {child.returncode}"


def try_plugins() -> None:
    """The child: tries the plugins that standard input names, one JSON line on standard output for each as it is done."""
    request = json.load(sys.stdin)
    with os.fdopen(os.dup(1), "w") as answers, os.fdopen(os.dup(2), "w") as noise:
        os.dup2(2, 1)  # what a plugin prints is not an answer
        for family, target in request["plugins"]:
            faulthandler.dump_traceback_later(request["seconds"], exit=True, file=noise)
            try:
                problem = _problem_of(family, target)
            except BaseException as error:
                text = str(error).strip().splitlines()
                problem = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps(problem), file=answers, flush=True)
    os._exit(0)  # whatever threads a plugin has started


def _problem_of(family: str, target: str) -> str:
    """Imports a plugin -> why it is none of the family, empty where it is."""
    module, _, attribute = target.partition(":")
    found = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    base = registry.base_of(family)
    if not (inspect.isclass(found) and issubclass(found, base)):
        return f"{target} is not a {base.__module__}.{base.__qualname__}"
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        return f"{target} does not define {', '.join(missing)}"
    registry.options_model(found)
    return ""


# One plugin in full


def describe(family: str, name: str) -> Described:
    """Imports a plugin and reads everything it says of itself. Raises MtlError where it is unknown or cannot be used."""
    plugin = registry.load(family, name, family)
    entry = registry.find(family, name, family)
    try:
        options = tuple(_options(registry.options_model(plugin)))
    except (NameError, TypeError) as error:
        raise MtlError(f'{family}: the options of "{name}" ({entry.target}) cannot be read: {error}') from error
    module = inspect.getmodule(plugin)
    return Described(
        family,
        name,
        entry.distribution,
        entry.version,
        _place(plugin),
        " ".join((inspect.getdoc(module) or "").split("\n\n")[0].split()) if module else "",
        inspect.cleandoc(plugin.__doc__ or ""),
        tuple((attribute, _value(getattr(plugin, attribute, None))) for attribute in DECLARED[family]),
        options,
    )


def _options(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, str, str, str, str]]:
    """Name, type, default, bounds and description of every option; below one that holds parts, those of each part."""
    for option, field in model.model_fields.items():
        yield (
            f"{above}{option}",
            type_name(field.annotation),
            "required" if field.is_required() else _value(field.default),
            ", ".join(_bounds(field.annotation, field.metadata)),
            field.description or "",
        )
        for part in typing.get_args(field.annotation):
            if inspect.isclass(part) and issubclass(part, BaseModel):
                yield from _options(part, f"{above}{option}.N.")


def _place(plugin: type) -> str:
    try:
        return f"{inspect.getsourcefile(plugin)}:{inspect.getsourcelines(plugin)[1]}"
    except (OSError, TypeError):
        return f"{plugin.__module__}.{plugin.__qualname__} (no source)"


def type_name(annotation: Any) -> str:
    """A type as the documentation of an option writes it: `float | null`, `dict[str, float]`, `choice`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is None or annotation is types.NoneType:
        return "null"
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin is typing.Literal:
        return "choice"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(type_name(argument) for argument in arguments))
    if origin is not None and arguments:
        inner = ", ".join("..." if argument is ... else type_name(argument) for argument in arguments)
        return f"{getattr(origin, '__name__', origin)}[{inner}]"
    return getattr(annotation, "__name__", str(annotation))


BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "multiple of", "min_length": "length >=",
          "max_length": "length <=", "pattern": "matches"}  # fmt: skip


def _bounds(annotation: Any, metadata: Sequence[Any] = ()) -> Iterator[str]:
    """What pydantic checks of a value beside its type, and of the values within it."""
    for one in metadata:
        if hasattr(one, "metadata"):  # a pydantic Field inside an annotation
            yield from _bounds(None, one.metadata)
        for attribute, sign in BOUNDS.items():
            bound = getattr(one, attribute, None)
            if bound is not None:
                yield f"{sign} {bound}"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        yield " | ".join(_value(argument) for argument in arguments)
    elif origin is typing.Annotated:
        yield from _bounds(arguments[0], arguments[1:])
    elif origin is not None:
        for argument in arguments:
            yield from _bounds(argument)


def _value(value: Any) -> str:
    """A default or an attribute as a recipe would write it."""
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case frozenset() | set():
            return ", ".join(sorted(_value(one) for one in value)) or "none"
        case tuple() | list():
            return ", ".join(_value(one) for one in value) or "none"
        case dict():
            return ", ".join(f"{_value(key)}: {_value(one)}" for key, one in value.items()) or "none"
    if is_dataclass(value):
        return _target(value)
    return str(value)


def _target(value: Any) -> str:
    """What a task predicts, in words."""
    from mtlcli.tasks.base import Classes, Score

    match value:
        case Classes():
            return f"one of {', '.join(value.labels)}" if value.labels else "one of the classes of the training rows"
        case Score(low=None) | Score(high=None):
            return "a score in the range of the training rows"
        case Score():
            return f"a score from {value.low:g} to {value.high:g}"
    return str(value)
