"""Recipe files and overrides as layers of plain values, each remembering where it was written."""

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
    """Values from one place, and for each key path what to call that place in an error: `recipe.yaml:7`, `--lr`."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Path_, str] = field(default_factory=dict)

    def put(self, path: Path_, value: Any, place: str) -> None:
        """Sets one value by its path, making the mappings on the way."""
        at = self.values
        for key in path[:-1]:
            below = at.get(key)
            if isinstance(below, str):
                below = {"name": below}  # a bare string stands for {name: ...}
            if not isinstance(below, dict):
                below = {}
            at[key] = below
            at = below
        at[path[-1]] = value
        self.places[path] = place


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of version 1.2: `no` is a text, `1e-5` a number, `007`, `12:30` and dates are texts."""


class _Dumper(yaml.SafeDumper):
    """Quotes every text that either version of YAML would take for something else."""


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
_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_pattern), _first)


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = node.value.lower().lstrip("+")
    return {".inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}.get(text) or float(text)


_Loader.add_constructor("tag:yaml.org,2002:float", _float)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))

TEXTS = ("text", "label", "labels")
"""Keys of a task whose values are texts, as they are spelled: a class may be called `true`, `007` or `1e-5`."""


def read_recipe(path: Path) -> Layer:
    """A recipe file as a layer. Raises MtlError for a missing or malformed file, and for a key given twice."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise MtlError(f"{path}: not a UTF-8 text file ({error.reason} at byte {error.start})") from error
    except FileNotFoundError:
        folder = path.absolute().parent
        near = did_you_mean(path.name, os.listdir(folder)) if folder.is_dir() else ""
        raise MtlError(f"{path}: there is no such recipe file (looked for {path.absolute()}){near}") from None
    except OSError as error:
        raise MtlError(f"{path}: cannot be read as a recipe file: {error.strerror}") from error
    layer = Layer()
    value = _read(text, (), str(path), layer.places)
    if value is None:
        return layer
    if not isinstance(value, dict):
        raise MtlError(f"{path}:1: expected keys such as `tasks:`, found {type(value).__name__} {value!r}")
    layer.values = value
    return layer


def _read(text: str, at: Path_, name: str, places: dict[Path_, str]) -> Any:
    """The value of a YAML text that stands at the path `at`. Raises MtlError with `name:line`."""
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
        raise MtlError(f"{name}: not valid YAML: nested too deeply, or in itself") from None


class _Reader:
    """Makes plain values of YAML nodes: strictly, and noting the line of each."""

    def __init__(self, loader: _Loader, name: str, places: dict[Path_, str]) -> None:
        self.loader, self.name, self.places = loader, name, places
        self.flat: set[int] = set()

    def value(self, node: yaml.Node, at: Path_) -> Any:
        self.places.setdefault(at, self._place(node))
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*at, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        if len(at) > 2 and at[0] == "tasks" and at[2] in TEXTS:
            listed = len(at) > 3
            if listed or not node.tag.endswith(":null"):
                return node.value
        try:
            return self.loader.construct_object(node)
        except ValueError as error:
            raise MtlError(f"{self._place(node)}: {node.value!r} is not what its tag says: {error}") from error

    def _mapping(self, node: yaml.MappingNode, at: Path_) -> dict[str, Any]:
        if id(node) not in self.flat:  # one that an alias repeats has its merge keys resolved already
            self.flat.add(id(node))
            own: set[str] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise MtlError(f"{self._place(key)}: a key is a list or a mapping; expected a name")
                if key.value in own:
                    raise MtlError(f"{self._place(key)}: the key `{key.value}` is given twice; keep one")
                own.add(key.value)
            self.loader.flatten_mapping(node)
        found: dict[str, Any] = {}
        for key, below in node.value:
            self.places[(*at, key.value)] = self._place(key)
            found[key.value] = self.value(below, (*at, key.value))
        return found

    def _place(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"


def parse_assignment(text: str) -> tuple[Path_, Any]:
    """`a.b=value` of `--set` -> path and value. A value stays text unless it starts with `[` or `{`, or is `null`."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        dash = " (a long dash was pasted: use - or --)" if any(c in text for c in "\u2013\u2014") else ""
        raise MtlError(f"--set {text}: expected key=value, such as training.epochs=2{dash}")
    path = tuple(key.strip().split("."))
    value = value.strip()
    if value == "null":
        return path, None
    if value[:1] in ("[", "{"):
        return path, _read(value, path, f"--set {key.strip()}", {})
    return path, value


def merge(
    below: dict[str, Any], above: dict[str, Any], kept: Callable[[Path_], tuple[str, ...] | None], at: Path_ = ()
) -> dict[str, Any]:
    """Both mappings in one; `above` wins.

    `kept` says of a path whether a plugin is chosen there: None where not, else the keys that survive when `above` chooses
    another one, whose options are not those of the choice below. A mapping with numbers as keys changes items of a list.
    """
    merged = dict(below)
    for key, value in above.items():
        old, path = merged.get(key), (*at, key)
        survivors = kept(path)
        if survivors is not None:
            old, value = ({"name": one} if isinstance(one, str) else one for one in (old, value))
        if isinstance(old, list) and isinstance(value, dict) and all(_is_index(index, old) for index in value):
            items = {str(index): {"name": item} if isinstance(item, str) else item for index, item in enumerate(old)}
            merged[key] = list(merge(items, value, lambda _: None, path).values())
        elif isinstance(value, dict):
            old = old if isinstance(old, dict) else {}
            if survivors is not None and value.get("name", old.get("name")) != old.get("name"):
                old = {name: item for name, item in old.items() if name in survivors}
            merged[key] = merge(old, value, kept, path)
        else:
            merged[key] = value
    return merged


def _is_index(text: Any, items: list[Any]) -> bool:
    return isinstance(text, str) and text.isdecimal() and int(text) < len(items)


def dump(values: dict[str, Any]) -> str:
    """Plain values as a recipe that reads back as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
