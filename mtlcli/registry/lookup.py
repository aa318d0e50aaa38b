"""Plugins by family and name: a table of built-ins, then entry points, then `package.module:Class`.

Listing imports nothing. A plugin is imported when it is used, and only then can it fail.
"""

import importlib
import importlib.metadata
import inspect
import os
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from mtlcli import __version__
from mtlcli.errors import MtlError, one_of, suggest
from mtlcli.registry.builtins import FAMILIES


@dataclass(frozen=True)
class Entry:
    """A plugin that can be named, not yet imported."""

    family: str
    name: str
    target: str
    distribution: str
    version: str


def family_named(text: str) -> str:
    """The family a user means: `balancers`, `balancer`, `gradient-regularizers`. Raises MtlError when there is none."""
    name = text.lower().replace("-", "_")
    for family in FAMILIES:
        if name in (family, family[:-1]):
            return family
    known = list(FAMILIES)
    raise MtlError(f'unknown plugin family "{text}"{suggest(name, known)}')


@cache
def _installed(family: str) -> tuple[Entry, ...]:
    if os.environ.get("MTL_NO_PLUGINS"):
        return ()
    found = {
        Entry(
            family,
            point.name,
            point.value,
            point.dist.name if point.dist else "?",
            point.dist.version if point.dist else "?",
        )
        for point in importlib.metadata.entry_points(group=f"mtlcli.{family}")
    }
    return tuple(sorted(found, key=lambda entry: (entry.name, entry.distribution)))


def entries(family: str) -> list[Entry]:
    """Every plugin of a family, built-ins first. Nothing is imported; two entries may claim one name."""
    own = [Entry(family, name, target, "mtlcli", __version__) for name, target in FAMILIES[family].built_in.items()]
    return own + list(_installed(family))


def names(family: str) -> list[str]:
    """The names of a family, built-ins first, each once."""
    return list(dict.fromkeys(entry.name for entry in entries(family)))


def find(family: str, name: str, where: str) -> Entry:
    """The one plugin called `name`, not yet imported.

    `where` opens the error line. Raises MtlError for an unknown name and for a name that two distributions claim.
    """
    if ":" in name:
        return Entry(family, name, name, "(local)", "")
    claims = [entry for entry in entries(family) if entry.name == name]
    if len(claims) > 1:
        who = " and ".join(f"{claim.distribution} {claim.version} ({claim.target})" for claim in claims)
        raise MtlError(
            f'{where}: "{name}" is claimed by {who}; uninstall one, or name the class itself: {claims[-1].target}'
        )
    if not claims:
        known = names(family)
        kind = family[:-1].replace("_", " ")
        raise MtlError(f'{where}: unknown {kind} "{name}"{elsewhere(name) or suggest(name, known)}')
    return claims[0]


def elsewhere(name: str) -> str:
    """The end of an error line about a name that is looked for in the wrong family; empty where no other has it."""
    others = [family for family in FAMILIES if name in names(family)]
    return f"; it is one of the {one_of(other.replace('_', ' ') for other in others)}" if others else ""


def load(family: str, name: str, where: str) -> Any:
    """Imports the class of a plugin. Raises MtlError when it cannot be imported or is not of the family."""
    entry = find(family, name, where)
    try:
        loaded = _resolve(entry.target)
    except MtlError as error:
        raise MtlError(f'{where}: "{name}" from {entry.distribution} {entry.version}: {error}'.rstrip()) from error
    except (Exception, SystemExit) as error:
        if entry.distribution == "mtlcli":
            raise
        raise MtlError(
            f'{where}: "{name}" from {entry.distribution} {entry.version} cannot be imported: '
            f"{type(error).__name__}: {error}; repair or uninstall it"
        ) from error
    base = base_of(family)
    if not (inspect.isclass(loaded) and issubclass(loaded, base)):
        raise MtlError(f'{where}: "{name}" is {entry.target}, which is not a {base.__module__}.{base.__qualname__}')
    return loaded


def base_of(family: str) -> Any:
    """The base class of a family."""
    return _resolve(FAMILIES[family].base)


def family_of(families: tuple[str, ...], target: str, where: str) -> str:
    """Which of several families a `package.module:Class` belongs to. Raises MtlError when it is none of them."""
    try:
        loaded = _resolve(target)
    except MtlError as error:
        raise MtlError(f"{where}: {error}") from error
    except (Exception, SystemExit) as error:
        raise MtlError(f"{where}: {target} cannot be imported: {type(error).__name__}: {error}") from error
    for family in families:
        if inspect.isclass(loaded) and issubclass(loaded, base_of(family)):
            return family
    raise MtlError(f"{where}: {target} is of none of the families {one_of(families)}")


def _resolve(target: str) -> Any:
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise MtlError(f'"{target}" is not of the form package.module:Class')
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise MtlError(f'there is no module "{module}"') from error
        raise
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise MtlError(f'module "{module}" has no "{attribute}"')
        found = getattr(found, part)
    return found


@cache
def options_model(plugin: type) -> type[BaseModel]:
    """The keyword-only parameters of a plugin's constructor as a pydantic model that refuses unknown ones."""
    signature = inspect.signature(plugin.__init__)  # type: ignore[misc]
    hints = typing.get_type_hints(plugin.__init__, include_extras=True)  # type: ignore[misc]
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in signature.parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, validate_default=True, protected_namespaces=())
    return create_model(plugin.__name__, __config__=config, **fields)


def check_options(
    family: str, name: str, options: dict[str, Any], where: str, also_known: tuple[str, ...] = ()
) -> tuple[type, dict[str, Any], list[tuple[str, str]]]:
    """Imports a plugin and validates its options.

    Returns the class, all its options with defaults filled in, and the errors as (option, message) pairs; the options
    are meaningless when there are errors. `also_known` are further keys a user may have meant.
    """
    plugin = load(family, name, where)
    model = options_model(plugin)
    try:
        checked = model.model_validate(options)
    except ValidationError as error:
        return plugin, {}, [_explain(model, name, detail, also_known) for detail in error.errors()]
    return plugin, {field: getattr(checked, field) for field in model.model_fields}, []


def _explain(model: type[BaseModel], name: str, detail: Any, also_known: tuple[str, ...]) -> tuple[str, str]:
    location = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        within = _model_at(model, detail["loc"])
        known = [*within.model_fields, *(also_known if within is model else ())]
        return location, f'unknown option of "{name}"{suggest(str(detail["loc"][-1]), known)}'
    if detail["type"] == "missing":
        field = _model_at(model, detail["loc"]).model_fields.get(str(detail["loc"][-1]))
        return location, f'"{name}" needs this option{f": {field.description}" if field and field.description else ""}'
    message = "expected a mapping of keys to values" if detail["type"] in ("model_type", "dict_type") else detail["msg"]
    return location, f"found {detail['input']!r}: {message[0].lower()}{message[1:]}"


def _model_at(model: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel]:
    """The model that the last part of a location is a field of: `stages.1.steps` is one of each stage."""
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        kinds = (field.annotation, *get_args(field.annotation)) if field is not None else ()
        model = next((one for one in kinds if inspect.isclass(one) and issubclass(one, BaseModel)), model)
    return model
