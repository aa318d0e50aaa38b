"""Read recipe files and overrides as layers of plain values, with the place where each value was written."""

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mtlcli.errors import MtlError, did_you_mean

Path_ = tuple[Any, ...]


@dataclass
class Layer:
    """Hold the values of one file or flag, and the place of each for error messages: `recipe.yaml:7`, `--lr`."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Path_, str] = field(default_factory=dict)

    def put(self, path: Path_, value: Any, place: str) -> None:
        """Set one value by its path, creating the mappings above it."""
        section = self.values
        for key in path[:-1]:
            below = section.get(key)
            if isinstance(below, str):
                below = {"name": below}  # a bare string stands for {name: ...}
            # Null, as in an empty section, and other values give way to the key below them.
            if not isinstance(below, dict):
                below = {}
            section[key] = below
            section = below
        section[path[-1]] = value
        self.places[path] = place


class _Loader(yaml.SafeLoader):
    """Read scalars as YAML 1.2 does: `no`, `007`, `12:30` and dates are texts, and `1e-5` is a number."""


class _Dumper(yaml.SafeDumper):
    """Quote every text that YAML 1.1 or 1.2 would read as another type."""


FIRST_OF_NUMBER = list("-+0123456789.")
SCALARS = (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", FIRST_OF_NUMBER),
    (
        "float",
        r"^(?:[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)|\.[0-9]+(?:[eE][-+]?[0-9]+)?)"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        FIRST_OF_NUMBER,
    ),
    ("merge", r"^<<$", ["<"]),
)
# The resolvers of PyYAML follow YAML 1.1.
_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_pattern), _first)


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = node.value.lower().lstrip("+")
    # float() reads "inf" and "nan", but not with the dot that YAML puts before them.
    return {".inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}.get(text) or float(text)


_Loader.add_constructor("tag:yaml.org,2002:float", _float)
# The constructor of PyYAML would read `!!int 010` as octal.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))

TEXTS = ("text", "label", "labels", "aliases", "no_label", "where", "group", "select_dev")
"""Keys of a task whose values are always read as text: a class may be called `true`, `007` or `1e-5`."""

DATA_FILES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt")
SHOWN = 60


def shown(value: Any) -> str:
    """Return a value as it was written, truncated to 60 characters."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def check_text(text: str, place: str) -> None:
    """Raise MtlError for a text that cannot be stored: with a NUL byte, or with half of a surrogate pair."""
    if "\0" in text:
        raise MtlError(f"{place}: {shown(text)} contains a NUL byte; remove it")
    # Escapes of YAML and JSON can write such halves, which UTF-8 cannot encode.
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise MtlError(f"{place}: {shown(text)} contains half of a surrogate pair, which is not a character; remove it")


def read_recipe(path: Path) -> Layer:
    """Read a recipe file as a layer.

    Raises:
        MtlError: the file is missing or malformed, or gives a key twice.
    """
    try:
        # Editors on Windows write a byte order mark at the start.
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise MtlError(f"{path}: not a UTF-8 text file ({error.reason} at byte {error.start})") from error
    except FileNotFoundError:
        folder = path.absolute().parent
        near = did_you_mean(path.name, os.listdir(folder)) if folder.is_dir() else ""
        raise MtlError(f"{path}: recipe file not found (looked for {path.absolute()}){near}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise MtlError(
            f"{shown(str(path))}: cannot be read as a recipe file: {getattr(error, 'strerror', error)}"
        ) from error
    layer = Layer()
    try:
        value = _read(text, (), str(path), layer.places)
    except MtlError:
        # A data file passed by mistake fails as YAML in ways that would not help.
        if path.suffix.lower() in DATA_FILES:
            raise _not_a_recipe(path, text) from None
        raise
    if value is None:
        return layer
    if not isinstance(value, dict):
        raise _not_a_recipe(path, text)
    layer.values = value
    return layer


def _not_a_recipe(path: Path, text: str) -> MtlError:
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    number, first = next(((number, line) for number, line in lines if line and line[0] != "#"), (1, ""))
    cure = f"; to train on this file: --task NAME={path}" if path.suffix.lower() in DATA_FILES else ""
    return MtlError(
        f"{path}:{number}: not a recipe: expected keys such as `tasks:`, but the file begins with {shown(first)}{cure}"
    )


def _read(text: str, at: Path_, name: str, places: dict[Path_, str]) -> Any:
    """Return the value of a YAML text at the path `at` of a recipe. Raise MtlError with `name:line`."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else _Reader(loader, name, places).value(node, at)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = f"{error.context or ''} {error.problem or ''}".strip()
        hint = "; indent with spaces, not with tabs" if "'\\t'" in problem else ""
        raise MtlError(f"{name}:{line}: not valid YAML: {problem}{hint}") from error
    except yaml.reader.ReaderError as error:
        raise MtlError(f"{name}: not valid YAML: {error.reason} at position {error.position}") from error
    except RecursionError:
        raise MtlError(f"{name}: not valid YAML: nested too deeply, or an alias contains itself") from None


class _Reader:
    """Convert YAML nodes to plain values, strictly, and record the line of each."""

    def __init__(self, loader: _Loader, name: str, places: dict[Path_, str]) -> None:
        self.loader, self.name, self.places = loader, name, places
        self.flat: set[int] = set()

    def value(self, node: yaml.Node, at: Path_) -> Any:
        """Return the plain value of a node at a path. Raise MtlError for tags and keys that a recipe does not support."""
        # Unless `_mapping` has set the line of the key, which is where a reader looks.
        self.places.setdefault(at, self._place(node))
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*at, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        check_text(node.value, self._place(node))
        if len(at) > 2 and at[0] == "tasks" and (at[2] in TEXTS or at[4:5] == ("where",)):
            # A bare `label:` is null, but an item of `labels` may be a class called `null`.
            is_item = len(at) > (3 if at[2] in TEXTS else 5)
            if is_item or not node.tag.endswith(":null"):
                return node.value
        try:
            value = self.loader.construct_object(node)
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError) as error:
            # PyYAML's constructors raise various errors for a scalar that does not match its tag, such as `!!timestamp x`.
            raise MtlError(
                f"{self._place(node)}: {shown(node.value)} does not fit its tag {_short(node.tag)}"
            ) from error
        if value is not None and not isinstance(value, str | int | float):
            raise MtlError(
                f"{self._place(node)}: the tag {_short(node.tag)} is not supported; expected a text, a number, true, false or null"
            )
        return value

    def _mapping(self, node: yaml.MappingNode, at: Path_) -> dict[str, Any]:
        if id(node) not in self.flat:  # an alias repeats a node whose merge keys are already resolved
            self.flat.add(id(node))
            # Before the merge keys `<<` are resolved: a mapping may override a key that it merges.
            keys: set[str] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise MtlError(f"{self._place(key)}: a key is a list or a mapping; expected a name")
                check_text(key.value, self._place(key))
                if key.value in keys:
                    raise MtlError(f"{self._place(key)}: the key `{key.value}` is set twice; remove one")
                keys.add(key.value)
            self.loader.flatten_mapping(node)
        mapping: dict[str, Any] = {}
        for key, below in node.value:
            self.places[(*at, key.value)] = self._place(key)
            mapping[key.value] = self.value(below, (*at, key.value))
        return mapping

    def _place(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"


def _short(tag: str) -> str:
    """Write a YAML tag as a recipe does: `!!int`."""
    return tag.replace("tag:yaml.org,2002:", "!!")


def parse_assignment(text: str) -> tuple[Path_, Any]:
    """Split `a.b=value` of `--set` into path and value. The value is text unless it begins with `[` or `{`, or is `null`."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        # Word processors and chat programs turn two hyphens into a long dash.
        dash = " (a long dash was pasted: use - or --)" if any(c in text for c in "\u2013\u2014") else ""
        raise MtlError(f"--set {text}: expected key=value, such as training.epochs=2{dash}")
    path = tuple(key.strip().split("."))
    value = value.strip()
    if value == "null":
        return path, None
    if value[:1] in ("[", "{"):
        # Read at its path, so that items of `labels=[true, 007]` stay texts, as in a recipe.
        return path, _read(value, path, f"--set {key.strip()}", {})
    return path, value


def merge(
    below: dict[str, Any],
    above: dict[str, Any],
    survivors_of: Callable[[Path_], tuple[str, ...] | None],
    at: Path_ = (),
) -> dict[str, Any]:
    """Merge two mappings; values of `above` take precedence.

    A mapping with numbers as keys changes items of a list.

    Args:
        below: the lower layer.
        above: the upper layer.
        survivors_of: takes a path and returns None if it selects no plugin, else the keys of `below` that survive when `above`
            selects another plugin there, which does not have the options of the first.
        at: path of both mappings.
    """
    # A copy, because neither layer may change.
    merged = dict(below)
    for key, value in above.items():
        old, path = merged.get(key), (*at, key)
        survivors = survivors_of(path)
        if survivors is not None:
            old, value = ({"name": choice} if isinstance(choice, str) else choice for choice in (old, value))
        if isinstance(old, str) and isinstance(value, dict) and set(value) == {"0"}:
            old = [old]  # a list may be written as its only item
        if isinstance(old, list) and isinstance(value, dict) and all(_is_index(index, old) for index in value):
            items = {str(index): {"name": item} if isinstance(item, str) else item for index, item in enumerate(old)}
            merged[key] = list(merge(items, value, lambda _: None, path).values())
        elif isinstance(value, dict):
            old = old if isinstance(old, dict) else {}
            if survivors is not None and value.get("name", old.get("name")) != old.get("name"):
                old = {name: item for name, item in old.items() if name in survivors}
            merged[key] = merge(old, value, survivors_of, path)
        else:
            merged[key] = value
    return merged


def _is_index(text: Any, items: list[Any]) -> bool:
    return isinstance(text, str) and text.isdecimal() and int(text) < len(items)


def dump(values: dict[str, Any]) -> str:
    """Write plain values as a recipe that reads back as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
