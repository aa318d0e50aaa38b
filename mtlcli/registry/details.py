"""Describe a plugin in full for `mtl plugins show`: its documentation, declarations and options. Imports the plugin."""

import inspect
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from mtlcli import registry
from mtlcli.errors import MtlError


@dataclass(frozen=True)
class PluginDetails:
    """Hold the full description of a plugin.

    Attributes:
        source: file:line of the class.
        module: the first paragraph of its module, which cites the method.
        text: the docstring of the class.
        declares: (attribute, value) pairs of the attributes that its family declares.
        options: (name, type, default, bounds, description) of each option.
    """

    family: str
    name: str
    distribution: str
    version: str
    source: str
    module: str
    text: str
    declares: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, str, str, str, str], ...]


def describe(family: str, name: str) -> PluginDetails:
    """Import a plugin and return its full description.

    Raises:
        MtlError: the plugin is unknown or cannot be imported, or its options cannot be read.
    """
    plugin = registry.load(family, name, family)
    entry = registry.find(family, name, family)
    try:
        options = tuple(_options(registry.options_model(plugin)))
    # An annotation that is imported for type checkers alone, or a type that pydantic cannot validate.
    except (NameError, TypeError) as error:
        raise MtlError(f'{family}: the options of "{name}" ({entry.target}) cannot be read: {error}') from error
    module = inspect.getmodule(plugin)
    return PluginDetails(
        family,
        name,
        entry.distribution,
        entry.version,
        _source_of(plugin),
        " ".join((inspect.getdoc(module) or "").split("\n\n")[0].split()) if module else "",
        inspect.cleandoc(plugin.__doc__ or ""),
        tuple(
            (attribute, _value(getattr(plugin, attribute, None))) for attribute in registry.FAMILIES[family].declares
        ),
        options,
    )


def _options(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, str, str, str, str]]:
    """Yield name, type, default, bounds and description of every option, and of the fields of a nested model."""
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
                # N stands for the index of an item, as in `stages.1.steps`.
                yield from _options(part, f"{above}{option}.N.")


def _source_of(plugin: type) -> str:
    try:
        return f"{inspect.getsourcefile(plugin)}:{inspect.getsourcelines(plugin)[1]}"
    except (OSError, TypeError):
        return f"{plugin.__module__}.{plugin.__qualname__} (no source)"


def type_name(annotation: Any) -> str:
    """Return a type in the notation of the documentation: `float | null`, `dict[str, float]`, `choice`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is None or annotation is types.NoneType:
        return "null"
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin is typing.Literal:
        return "choice"  # the bounds list the values
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(type_name(argument) for argument in arguments))
    if origin is not None and arguments:
        inner = ", ".join("..." if argument is ... else type_name(argument) for argument in arguments)
        return f"{getattr(origin, '__name__', origin)}[{inner}]"
    return getattr(annotation, "__name__", str(annotation))


BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "multiple of", "min_length": "length >=",
          "max_length": "length <=", "pattern": "matches"}  # fmt: skip


def _bounds(annotation: Any, metadata: Sequence[Any] = ()) -> Iterator[str]:
    """Yield the constraints that pydantic checks besides the type, on a value and on the values in it."""
    for constraint in metadata:
        if hasattr(constraint, "metadata"):  # a pydantic Field inside an annotation
            yield from _bounds(None, constraint.metadata)
        for attribute, sign in BOUNDS.items():
            bound = getattr(constraint, attribute, None)
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
    """Return a default or an attribute as a recipe would write it."""
    match value:
        # str() would return "None" and "True"; a recipe has null and true.
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case frozenset() | set():
            return ", ".join(sorted(_value(item) for item in value)) or "none"
        case tuple() | list():
            return ", ".join(_value(item) for item in value) or "none"
        case dict():
            return ", ".join(f"{_value(key)}: {_value(item)}" for key, item in value.items()) or "none"
    from mtlcli.tasks.targets import Target  # not at the top: it imports numpy, and most families have no target

    return value.describe() if isinstance(value, Target) else str(value)
