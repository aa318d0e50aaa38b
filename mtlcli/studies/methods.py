"""The changes that each row of a study makes to the recipe: methods by name, or a recipe file."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mtlcli import registry
from mtlcli.config.layers import Layer, read_recipe
from mtlcli.config.schema import TrainingConfig
from mtlcli.config.shorthand import absolute_paths
from mtlcli.errors import MtlError, one_of, suggest

OF_A_METHOD = ("batch_size", "micro_batches")
"""The keys of `training` that a method's recipe may change; the study sets all others, so that runs stay comparable."""

SHARED = ("tasks", "data", "sample", "encoder", "init")
"""The sections that the study sets for every method, overriding a method's recipe."""


@dataclass(frozen=True)
class Method:
    """Hold the changes of one row of the table.

    Attributes:
        label: name in the table and of the folder.
        layer: values that override the recipe.
        joining: regularizers added to those of the recipe.
        left_out: keys of the method's recipe file that were ignored, because the study sets them.
    """

    label: str
    layer: Layer
    joining: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def find_methods(texts: Iterable[str]) -> list[Method]:
    """Return the methods of a study, in order. Raise MtlError with the errors of all of them."""
    methods: list[Method] = []
    errors: list[str] = []
    for text in texts:
        try:
            methods.append(find_method(text))
        except MtlError as error:
            errors.extend(error.lines)
    if errors:
        raise MtlError(*dict.fromkeys(errors))
    return methods


def find_method(text: str) -> Method:
    """Return the changes of `uncertainty+gradvac`, `scheduler:annealed`, `smart` or `my.yaml`.

    A balancer or a gradient regularizer replaces both of the recipe, as --balancer does; a regularizer is added to those of the
    recipe; a scheduler or an architecture replaces the recipe's. A recipe file overrides the recipe key by key.

    Raises:
        MtlError: a name is unknown or ambiguous, two names are of the same kind, or the file cannot be read.
    """
    if text.endswith((".yaml", ".yml")):
        return _method_of_file(Path(text))
    names_by_family: dict[str, list[str]] = {}
    for part in text.split("+"):
        family, name = _find_plugin(part.strip(), text)
        names_by_family.setdefault(family, []).append(name)
    joining, layer = tuple(names_by_family.pop("regularizers", ())), Layer()
    balancing = registry.families_of_flag("--balancer")
    # Reset both, so that naming a balancer does not silently keep the recipe's gradient regularizer, or the reverse.
    if any(family.name in names_by_family for family in balancing):
        layer.values = {family.key: {"name": family.default} if family.default else None for family in balancing}
    for family, names in names_by_family.items():
        if len(names) > 1:
            kind = registry.FAMILIES[family].kind
            raise MtlError(f'method "{text}": "{names[0]}" and "{names[1]}" are both of the kind {kind}; choose one')
        layer.put((registry.FAMILIES[family].key,), {"name": names[0]}, f"method {text}")
    return Method(_label(text), layer, joining)


def _find_plugin(text: str, method: str) -> tuple[str, str]:
    """Return the family and name of a plugin written as `pcgrad`, `scheduler:annealed` or `package.module:Class`."""
    before, colon, name = text.partition(":")
    # Plural and singular: `schedulers:annealed` and `scheduler:annealed`.
    families = {alias: family for family in registry.METHODS for alias in (family, family[:-1])}
    family = families.get(before.lower().replace("-", "_")) if colon else None
    if family is not None:
        # Only to raise for an unknown name.
        registry.find(family, name, f'method "{method}"')
        return family, name
    # Not a family, so the colon is that of `package.module:Class`.
    if colon:
        return registry.family_of(registry.METHODS, text, f'method "{method}"'), text
    matches = [family for family in registry.METHODS if text in registry.names(family)]
    if not matches:
        candidates = [candidate for family in registry.METHODS for candidate in registry.names(family)]
        kinds = one_of(registry.FAMILIES[family].kind for family in registry.METHODS)
        raise MtlError(
            f'method "{method}": "{text}" is not a known method ({kinds})'
            f"{suggest(text, candidates)} (a recipe file ends in .yaml)"
        )
    if len(matches) > 1:
        ways = " or ".join(f"{family[:-1].replace('_', '-')}:{text}" for family in matches)
        raise MtlError(f'method "{method}": "{text}" is in {len(matches)} families; write {ways}')
    return matches[0], text


def _method_of_file(path: Path) -> Method:
    # Paths are relative to the recipe file that names them, and not to the recipe of the study.
    layer = absolute_paths(read_recipe(path), path.absolute().parent)
    training = layer.values.get("training")
    training = training if isinstance(training, dict) else {}
    dropped = [key for key in SHARED if key in layer.values]
    # An unknown key is kept, so that it is reported as an error.
    dropped += [f"training.{key}" for key in training if key in TrainingConfig.model_fields and key not in OF_A_METHOD]
    # Dropped with a note rather than rejected: an ordinary recipe, with its tasks and data, serves as a method.
    for dotted in dropped:
        key, _, below = dotted.partition(".")
        (training if below else layer.values).pop(below or key)
    return Method(_label(path.stem), layer, left_out=tuple(dropped))


def _label(text: str) -> str:
    """Return the name of a method in the table and of its folder."""
    # No dots at the ends, because the label names a folder: `..` would be its parent, and `.a` hidden.
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.") or "method"
