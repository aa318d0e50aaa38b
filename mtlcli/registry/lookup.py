"""Look up plugins by family and name: a table of built-ins, then entry points, then `package.module:Class`.

Listing imports nothing. A plugin is imported when it is used, so a broken plugin affects only the runs that use it.
"""

import importlib
import importlib.metadata
import inspect
import os
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from mtlcli import __version__
from mtlcli.errors import MtlError, one_of, suggest
from mtlcli.registry.builtins import FAMILIES

LOCAL = "(local)"
"""Placeholder for the distribution of a class named as `package.module:Class`."""


@dataclass(frozen=True)
class Entry:
    """Describe a plugin that has not been imported yet."""

    family: str
    name: str
    target: str
    distribution: str
    version: str

    @property
    def is_built_in(self) -> bool:
        """Return whether the plugin comes with mtlcli, so that its failure is a bug of mtlcli."""
        return self.distribution == "mtlcli"

    @property
    def origin(self) -> str:
        """Return the distribution and its version for messages."""
        return f"{self.distribution} {self.version}".rstrip()


_entry_of_class: dict[type, Entry] = {}
"""The entry of each imported plugin class, for messages about its instances."""


def family_named(text: str) -> str:
    """Return the family for a user's spelling such as `balancers`, `balancer` or `gradient-regularizers`.

    Raises:
        MtlError: there is no such family.
    """
    name = text.lower().replace("-", "_")
    for family in FAMILIES.values():
        if name in (family.name, family.name[:-1]):
            return family.name
    raise MtlError(f'unknown plugin family "{text}"{suggest(name, FAMILIES)}')


# Searching the metadata of all distributions is slow.
@cache
def _installed(family: str) -> tuple[Entry, ...]:
    if os.environ.get("MTL_NO_PLUGINS"):
        return ()
    installed = {
        Entry(
            family,
            point.name,
            point.value,
            point.dist.name if point.dist else "?",
            point.dist.version if point.dist else "?",
        )
        for point in importlib.metadata.entry_points(group=f"mtlcli.{family}")
    }
    return tuple(sorted(installed, key=lambda entry: (entry.name, entry.distribution)))


def entries(family: str) -> list[Entry]:
    """Return every plugin of a family, built-ins first, without importing any. Two entries may have the same name."""
    return built_in(family) + list(_installed(family))


def built_in(family: str) -> list[Entry]:
    """Return the plugins of a family that come with mtlcli."""
    return [Entry(family, name, target, "mtlcli", __version__) for name, target in FAMILIES[family].built_in.items()]


def names(family: str) -> list[str]:
    """Return the names of a family without repetition, built-ins first."""
    return list(dict.fromkeys(entry.name for entry in entries(family)))


def find(family: str, name: str, where: str) -> Entry:
    """Return the plugin called `name`, not yet imported; `where` opens the error line.

    Raises:
        MtlError: the name is unknown, or two distributions define it.
    """
    if ":" in name:
        return Entry(family, name, name, LOCAL, "")
    claims = [entry for entry in entries(family) if entry.name == name]
    if len(claims) > 1:
        claimants = " and ".join(f"{claim.origin} ({claim.target})" for claim in claims)
        raise MtlError(
            f'{where}: "{name}" is claimed by {claimants}; uninstall one, or name the class itself: {claims[-1].target}'
        )
    if not claims:
        kind = FAMILIES[family].kind
        raise MtlError(f'{where}: unknown {kind} "{name}"{elsewhere(name) or suggest(name, names(family))}')
    return claims[0]


def elsewhere(name: str) -> str:
    """Return the end of an error line about a name that belongs to another family; empty if no family has it."""
    families = [family.replace("_", " ") for family in FAMILIES if name in names(family)]
    return f"; it is one of the {one_of(families)}" if families else ""


def load(family: str, name: str, where: str) -> Any:
    """Import the class of a plugin.

    Raises:
        MtlError: the name is unknown, or the class cannot be imported or is not of the family.
    """
    entry = find(family, name, where)
    try:
        plugin = _import(entry.target, in_current_folder=entry.distribution == LOCAL)
    except MtlError as error:
        raise MtlError(f'{where}: "{name}" from {entry.origin}: {error}') from error
    except (Exception, SystemExit) as error:  # a third-party module can fail in any way, or exit
        if entry.is_built_in:
            raise
        raise MtlError(
            f'{where}: "{name}" from {entry.origin} cannot be imported: '
            f"{type(error).__name__}: {error}; fix or uninstall it"
        ) from error
    base = base_of(family)
    if not (inspect.isclass(plugin) and issubclass(plugin, base)):
        raise MtlError(f'{where}: "{name}" is {entry.target}, which is not a {base.__module__}.{base.__qualname__}')
    _entry_of_class[plugin] = entry
    return plugin


def entry_of(plugin: type) -> Entry | None:
    """Return the entry of an imported plugin class; None for a class that was not looked up here."""
    return _entry_of_class.get(plugin)


def base_of(family: str) -> Any:
    """Import the base class of a family."""
    return _import(FAMILIES[family].base)


def family_of(families: Sequence[str], target: str, where: str) -> str:
    """Return which of several families a `package.module:Class` belongs to.

    Raises:
        MtlError: the class cannot be imported or belongs to none of the families.
    """
    try:
        plugin = _import(target, in_current_folder=True)
    except MtlError as error:
        raise MtlError(f"{where}: {error}") from error
    except (Exception, SystemExit) as error:
        raise MtlError(f"{where}: {target} cannot be imported: {type(error).__name__}: {error}") from error
    for family in families:
        if inspect.isclass(plugin) and issubclass(plugin, base_of(family)):
            return family
    bases = one_of(FAMILIES[family].base for family in families)
    raise MtlError(f"{where}: {target} is not derived from a base class of these families: {bases}")


def _import(target: str, *, in_current_folder: bool = False) -> Any:
    """Import `package.module:Class`; with `in_current_folder`, also from there."""
    module, _, attribute = target.partition(":")
    # For an empty or relative name importlib would raise ValueError or TypeError.
    if not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise MtlError(f'"{target}" is not of the form package.module:Class')
    if in_current_folder and (folder := os.getcwd()) not in sys.path:
        # At the end, so that a file beside the recipe never hides an installed module; kept, because the plugin may import
        # its neighbors later.
        sys.path.append(folder)
        importlib.invalidate_caches()
    try:
        value = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            places = f" (looked in the installed packages and in {os.getcwd()})" if in_current_folder else ""
            raise MtlError(f'there is no module "{module}"{places}') from error
        raise  # the module exists, but imports one that is not installed
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise MtlError(f'module "{module}" has no "{attribute}"')
        value = getattr(value, part)
    return value


@cache
def options_model(plugin: type) -> type[BaseModel]:
    """Return the keyword-only parameters of a plugin's constructor as a pydantic model that rejects unknown ones."""
    signature = inspect.signature(plugin.__init__)  # type: ignore[misc]
    # Extras are the bounds and descriptions in `Annotated`.
    hints = typing.get_type_hints(plugin.__init__, include_extras=True)  # type: ignore[misc]
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in signature.parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    # An option may have a name that begins with `model_`, which pydantic would protect.
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, validate_default=True, protected_namespaces=())
    return create_model(plugin.__name__, __config__=config, **fields)


def check_options(
    plugin: type, name: str, options: Mapping[str, Any], also_known: Sequence[str] = ()
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Validate the options of a plugin.

    Args:
        plugin: the imported class.
        name: what to call the plugin in a message.
        options: what the user wrote.
        also_known: further keys to suggest for an unknown option.

    Returns:
        All options with defaults filled in, and the errors as (option, message) pairs. With errors there are no options.
    """
    model = options_model(plugin)
    try:
        checked = model.model_validate(options)
    except ValidationError as error:
        return {}, [_explain(model, name, detail, also_known) for detail in error.errors()]
    # Not `model_dump`: nested models stay instances of their class for the constructor.
    return {field: getattr(checked, field) for field in model.model_fields}, []


def _explain(model: type[BaseModel], name: str, detail: Any, also_known: Sequence[str]) -> tuple[str, str]:
    location = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        part = _model_at(model, detail["loc"])
        # Keys of the core stand beside the options of the plugin, not in a nested model.
        candidates = [*part.model_fields, *(also_known if part is model else ())]
        return location, f'unknown option of "{name}"{suggest(str(detail["loc"][-1]), candidates)}'
    if detail["type"] == "missing":
        field = _model_at(model, detail["loc"]).model_fields.get(str(detail["loc"][-1]))
        return location, f'"{name}" needs this option{f": {field.description}" if field and field.description else ""}'
    message = "expected a mapping of keys to values" if detail["type"] in ("model_type", "dict_type") else detail["msg"]
    return location, f"found {detail['input']!r}: {message[0].lower()}{message[1:]}"


def _model_at(model: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel]:
    """Return the model that has the last part of a location as a field: `stages.1.steps` is a field of each stage."""
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        types = (field.annotation, *get_args(field.annotation)) if field is not None else ()
        model = next((item for item in types if inspect.isclass(item) and issubclass(item, BaseModel)), model)
    return model
