"""Recipe files and overrides as layers of plain values, each remembering where it was written."""

import math
import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mtlcli.errors import MtlError

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
    """YAML with the scalars of version 1.2: `no` is a text, `1e-5` a number, `12:30` and dates are texts."""


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"])


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = node.value.lower().lstrip("+")
    return {".inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}.get(text) or float(text)


_Loader.add_constructor("tag:yaml.org,2002:float", _float)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


def read_recipe(path: Path) -> Layer:
    """A recipe file as a layer. Raises MtlError for a missing or malformed file, and for a key given twice."""
    if not path.is_file():
        raise MtlError(f"{path}: there is no such recipe file (looked for {path.absolute()})")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise MtlError(f"{path}: not a UTF-8 text file ({error.reason} at byte {error.start})") from error
    layer = Layer()
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return layer
        value = _construct(loader, node, (), path, layer.places)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise MtlError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        raise MtlError(f"{path}: not valid YAML: {error.reason} at position {error.position}") from error
    if not isinstance(value, dict):
        raise MtlError(f"{path}:1: expected keys such as `tasks:`, found {type(value).__name__} {value!r}")
    layer.values = value
    return layer


def _construct(loader: _Loader, node: yaml.Node, at: Path_, path: Path, places: dict[Path_, str]) -> Any:
    places.setdefault(at, f"{path}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*at, index), path, places) for index, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    own: set[Hashable] = set()
    for key_node, _ in node.value:
        if key_node.tag != "tag:yaml.org,2002:merge":
            key = loader.construct_object(key_node)
            if key in own:
                raise MtlError(f"{path}:{key_node.start_mark.line + 1}: the key `{key}` is given twice; keep one")
            own.add(key)
    loader.flatten_mapping(node)
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node))
        places[(*at, key)] = f"{path}:{key_node.start_mark.line + 1}"
        found[key] = _construct(loader, value_node, (*at, key), path, places)
    return found


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
        try:
            return path, yaml.load(value, _Loader)
        except yaml.YAMLError as error:
            raise MtlError(f"--set {text}: not a valid list or mapping: {error}") from error
    return path, value


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both mappings in one; `above` wins. A plugin choice of another name replaces the whole choice below it."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, str) and isinstance(value, dict):
            old = {"name": old}
        if isinstance(old, dict) and isinstance(value, str):
            value = {"name": value}
        if isinstance(old, dict) and isinstance(value, dict):
            renamed = "name" in value and "name" in old and value["name"] != old["name"]
            merged[key] = value if renamed else merge(old, value)
        else:
            merged[key] = value
    return merged


def dump(values: dict[str, Any]) -> str:
    """Plain values as a recipe that reads back as the same values."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
