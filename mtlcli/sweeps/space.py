"""The space of a sweep: which keys of a recipe vary, between which values, and under which conditions."""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from mtlcli.config.layers import Layer, read_recipe, shown
from mtlcli.config.resolve import resolve
from mtlcli.config.schema import Config
from mtlcli.errors import MtlError, one_of, suggest
from mtlcli.training.compatibility import check_combination

FORMS = "[a, b], {log: [low, high]}, {from: low, to: high, step: s}, {int: [low, high]} or {choices: [a, b]}"
MOST_CORNERS = 200
"""Combinations of choices that are all checked before the first trial; of more, so many drawn ones."""


@dataclass(frozen=True)
class Dimension:
    """One key that varies.

    Attributes:
        key: dotted key of the recipe.
        choices: possible values, empty for a range.
        low, high, step, log, whole: the range, whether it is searched on a logarithmic scale, and whether of whole numbers.
        when: keys and the values one of which each must have for this key to vary.
        place: file and line.
    """

    key: str
    place: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    whole: bool = False
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    @property
    def path(self) -> tuple[str, ...]:
        """Return the path of the key."""
        return tuple(self.key.split("."))

    @property
    def labels(self) -> tuple[str | int | float | bool | None, ...]:
        """Return the choices as a storage can hold them: mappings and lists as text."""
        return tuple(json.dumps(choice) if isinstance(choice, dict | list) else choice for choice in self.choices)

    def corners(self) -> tuple[Any, ...]:
        """Return the values that show whether the key and its range are valid."""
        if self.choices:
            return self.choices
        ends = (self.low, self.high) if self.high > self.low else (self.low,)
        return tuple(int(end) for end in ends) if self.whole else ends

    def value(self, label: Any) -> Any:
        """Return the value of the recipe for a stored one."""
        return self.choices[self.labels.index(label)] if self.choices else label

    def contains(self, value: Any) -> bool:
        """Return whether a value of a recipe lies in this dimension."""
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True)
class Space:
    """The dimensions of a sweep in the order of the file; a condition names only keys above it."""

    name: str
    dimensions: tuple[Dimension, ...]

    def __len__(self) -> int:
        return len(self.dimensions)

    def active(self, values: Mapping[str, Any], base: Mapping[str, Any]) -> Iterator[Dimension]:
        """Yield the dimensions whose conditions hold, as `values` is filled meanwhile.

        Args:
            values: values by key of the dimensions above.
            base: values of the recipe, for conditions on keys that do not vary.
        """
        for dimension in self.dimensions:
            if all(_name_of(values.get(key, lookup(base, key))) in wanted for key, wanted in dimension.when):
                yield dimension

    def canonical(self) -> str:
        """Return the space as text, by which two spaces are compared."""
        # Without the lines of the file, which move when a comment is added.
        return json.dumps(
            [{**vars(dimension), "place": ""} for dimension in self.dimensions], sort_keys=True, default=list
        )

    def config(self, base: Config, values: Mapping[str, Any], name: str) -> Config:
        """Return the recipe with these values.

        Raises:
            MtlError: the values do not work together; the lines begin with `name` or the place in the space.
        """
        layer = Layer()
        for dimension in self.dimensions:
            if dimension.key in values:
                layer.put(dimension.path, deepcopy(values[dimension.key]), f"{dimension.place} ({name})")
        # Copies, because resolving changes the layers.
        config = resolve([Layer(deepcopy(base.plain())), layer])
        check_combination(config)
        return config

    def default(self, base: Config) -> dict[str, Any] | None:
        """Return the values of the recipe as it stands, None where one lies outside of the space."""
        plain = base.plain()
        values: dict[str, Any] = {}
        for dimension in self.active(values, plain):
            value = lookup(plain, dimension.key)
            # A recipe holds a plugin as a mapping with its options, while a choice can be its name alone.
            entry = value if dimension.contains(value) else _name_of(value)
            if not dimension.contains(entry):
                return None
            values[dimension.key] = entry
        return values


def lookup(values: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key, None where there is none."""
    value: Any = values
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _name_of(value: Any) -> Any:
    """Return the name of a plugin that is entry with options, another value as it is."""
    return value.get("name", value) if isinstance(value, Mapping) else value


def read_space(path: Path, base: Config) -> Space:
    """Read and check a space.

    Raises:
        MtlError: a line for every key that the recipe does not have, and every range or value that it does not accept.
    """
    layer = read_recipe(path)
    if not layer.values:
        raise MtlError(f"{path}: no keys; expected lines such as `optimizer.lr: {{log: [1e-5, 2e-4]}}`")
    dimensions: list[Dimension] = []
    errors: list[str] = []
    for key, entry in layer.values.items():
        place = layer.places.get((key,), str(path))
        try:
            dimension = _dimension(str(key), entry, place)
            _check_conditions(dimension, [other.key for other in dimensions], base)
            dimensions.append(dimension)
        except MtlError as error:
            errors += error.lines
    if errors:
        raise MtlError(*errors)
    space = Space(path.name, tuple(dimensions))
    errors = []
    plain = base.plain()
    for dimension in dimensions:
        # A condition that the recipe does not meet is set to a value that meets it, or the key might not exist.
        conditions = {key: wanted[0] for key, wanted in dimension.when if lookup(plain, key) not in wanted}
        for value in dimension.corners():
            try:
                space.config(base, {**conditions, dimension.key: value}, f"{dimension.key} = {shown(value)}")
            except MtlError as error:
                # Valid values that do not work with the rest of the recipe are no error here; `impossible` lists them.
                errors += [line for line in error.lines if line.startswith(dimension.place)] or (
                    error.lines if not _is_combination(space, base, {**conditions, dimension.key: value}) else []
                )
                break
    if errors:
        raise MtlError(*dict.fromkeys(errors))
    return space


def _is_combination(space: Space, base: Config, values: Mapping[str, Any]) -> bool:
    """Return whether values are valid for themselves and only do not work with the rest of the recipe."""
    layer = Layer()
    for key, value in values.items():
        layer.put(tuple(key.split(".")), deepcopy(value), key)
    try:
        resolve([Layer(deepcopy(base.plain())), layer])
    except MtlError:
        return False
    return True


def impossible(space: Space, base: Config) -> dict[str, str]:
    """Return combinations of choices that cannot be trained, as text, with the reason; nothing is read.

    All combinations are checked where there are few, otherwise every value with the recipe's others, and some that are drawn.
    """
    plain = base.plain()
    parts = [dimension for dimension in space.dimensions if dimension.choices]
    if math.prod(len(part.choices) for part in parts) <= MOST_CORNERS:
        candidates: list[tuple[Any, ...]] = list(itertools.product(*(part.choices for part in parts)))
    else:
        # A fixed seed, so that every call draws the same combinations.
        random = Random(0)
        candidates = [tuple(random.choice(part.choices) for part in parts) for _ in range(MOST_CORNERS)]
    problems: dict[str, str] = {}
    for candidate in candidates:
        corner = dict(zip((part.key for part in parts), candidate, strict=True))
        values: dict[str, Any] = {}
        for dimension in space.active(values, plain):
            # A range has its low end.
            values[dimension.key] = corner.get(dimension.key, dimension.corners()[0])
        text = in_words({key: value for key, value in values.items() if key in corner})
        try:
            space.config(base, values, text)
        except MtlError as error:
            problems[text] = error.lines[0]
    return problems


def in_words(values: Mapping[str, Any]) -> str:
    """Return values as `lr=5e-05 balancer=pcgrad`: without the sections of the keys, where the last part is enough."""
    last = [key.rpartition(".")[2] for key in values]
    names = [part if last.count(part) == 1 else key for key, part in zip(values, last, strict=True)]
    return " ".join(f"{name}={_short(value)}" for name, value in zip(names, values.values(), strict=True))


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        options = ", ".join(f"{key}={_short(option)}" for key, option in value.items() if key != "name")
        return f"{value.get('name', '')}({options})"
    return str(value)


def _dimension(key: str, entry: Any, place: str) -> Dimension:
    def wrong(expected: str) -> MtlError:
        return MtlError(f"{place}: {key}: found {shown(entry)}: expected {expected}")

    if isinstance(entry, list):
        entry = {"choices": entry}
    if not isinstance(entry, dict):
        raise wrong(FORMS)
    rest = dict(entry)
    when = tuple((str(name), tuple(_listed(wanted))) for name, wanted in (rest.pop("when", None) or {}).items())
    known = {"choices", "log", "from", "to", "step", "int"}
    if unknown := [name for name in rest if name not in known]:
        raise MtlError(
            f"{place}: {key}: unknown key {shown(unknown[0])}{suggest(str(unknown[0]), [*sorted(known), 'when'])}"
        )
    if "choices" in rest:
        choices = rest.pop("choices")
        if rest or not isinstance(choices, list) or not choices:
            raise wrong("a list of choices alone")
        # Compared as text, because mappings cannot be in a set.
        if len({json.dumps(choice, sort_keys=True) for choice in choices}) < len(choices):
            raise wrong("choices that differ")
        return Dimension(key, place, tuple(choices), when=when)
    whole = "int" in rest
    if whole or isinstance(rest.get("log"), list):
        ends, log = (rest.pop("int"), bool(rest.pop("log", False))) if whole else (rest.pop("log"), True)
    else:
        ends, log = [rest.pop("from", None), rest.pop("to", None)], bool(rest.pop("log", False))
    step = rest.pop("step", None)
    if rest or not isinstance(ends, list) or len(ends) != 2 or not all(_is_number(end) for end in ends):
        raise wrong(FORMS)
    low, high = ends
    if not low < high or (log and low <= 0) or (step is not None and (not _is_number(step) or step <= 0 or log)):
        raise wrong("a low end below the high one, above 0 where `log` is set, and a `step` above 0 where it is not")
    if whole and not all(float(end).is_integer() for end in (*ends, step or 1)):
        raise wrong("whole numbers")
    return Dimension(key, place, (), float(low), float(high), None if step is None else float(step), log, whole, when)


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_conditions(dimension: Dimension, above: Sequence[str], base: Config) -> None:
    plain = base.plain()
    for key, _ in dimension.when:
        if key not in above and lookup(plain, key) is None:
            raise MtlError(
                f"{dimension.place}: {dimension.key}: when: no key {key} above it or in the recipe; there are: {one_of(above)}"
            )
