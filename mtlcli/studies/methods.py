"""What one row of a study changes in the recipe: methods by name, or a recipe file of their own."""

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
"""The keys of `training` that a method's own recipe may change; all others are the study's."""

SHARED = ("tasks", "data", "sample", "encoder", "init")
"""The sections that are the study's for every method, whatever a method's own recipe says."""


@dataclass(frozen=True)
class Method:
    """A label, the layer that is laid over the recipe, the regularizers that join the recipe's own, and the keys of a method's
    recipe file that were left out of the layer, for they are the study's."""

    label: str
    layer: Layer
    joining: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def find_methods(texts: Iterable[str]) -> list[Method]:
    """The rows of a study, in order. Raises MtlError with the errors of all of them."""
    found: list[Method] = []
    errors: list[str] = []
    for text in texts:
        try:
            found.append(find_method(text))
        except MtlError as error:
            errors.extend(error.lines)
    if errors:
        raise MtlError(*dict.fromkeys(errors))
    return found


def find_method(text: str) -> Method:
    """`uncertainty+gradvac`, `scheduler:annealed`, `smart` or `my.yaml` -> what it changes. Raises MtlError.

    A balancer or a gradient regularizer replaces both of the recipe, as --balancer does; a regularizer joins those of the
    recipe; a scheduler or an architecture replaces the recipe's. A recipe file is laid over the recipe whole.
    """
    if text.endswith((".yaml", ".yml")):
        return _method_of_file(Path(text))
    names_by_family: dict[str, list[str]] = {}
    for part in text.split("+"):
        family, name = _find_plugin(part.strip(), text)
        names_by_family.setdefault(family, []).append(name)
    joining, layer = tuple(names_by_family.pop("regularizers", ())), Layer()
    balancing = registry.families_of_flag("--balancer")
    if any(family.name in names_by_family for family in balancing):
        layer.values = {family.key: {"name": family.default} if family.default else None for family in balancing}
    for family, names in names_by_family.items():
        if len(names) > 1:
            kind = registry.FAMILIES[family].kind
            raise MtlError(f'method "{text}": "{names[0]}" and "{names[1]}" are both of the kind {kind}; choose one')
        layer.put((registry.FAMILIES[family].key,), {"name": names[0]}, f"method {text}")
    return Method(_label(text), layer, joining)


def _find_plugin(text: str, method: str) -> tuple[str, str]:
    """The family and the name: `pcgrad`, `scheduler:annealed` or `package.module:Class`."""
    before, colon, name = text.partition(":")
    families = {alias: family for family in registry.METHODS for alias in (family, family[:-1])}
    family = families.get(before.lower().replace("-", "_")) if colon else None
    if family is not None:
        registry.find(family, name, f'method "{method}"')
        return family, name
    if colon:
        return registry.family_of(registry.METHODS, text, f'method "{method}"'), text
    matches = [family for family in registry.METHODS if text in registry.names(family)]
    if not matches:
        candidates = [candidate for family in registry.METHODS for candidate in registry.names(family)]
        kinds = one_of(registry.FAMILIES[family].kind for family in registry.METHODS)
        raise MtlError(
            f'method "{method}": "{text}" is not the name of a method ({kinds})'
            f"{suggest(text, candidates)} (a recipe file ends in .yaml)"
        )
    if len(matches) > 1:
        ways = " or ".join(f"{family[:-1].replace('_', '-')}:{text}" for family in matches)
        raise MtlError(f'method "{method}": "{text}" is in {len(matches)} families; write {ways}')
    return matches[0], text


def _method_of_file(path: Path) -> Method:
    layer = absolute_paths(read_recipe(path), path.absolute().parent)
    training = layer.values.get("training")
    training = training if isinstance(training, dict) else {}
    dropped = [key for key in SHARED if key in layer.values]
    dropped += [f"training.{key}" for key in training if key in TrainingConfig.model_fields and key not in OF_A_METHOD]
    for dotted in dropped:
        key, _, below = dotted.partition(".")
        (training if below else layer.values).pop(below or key)
    return Method(_label(path.stem), layer, left_out=tuple(dropped))


def _label(text: str) -> str:
    """The name of a method in the table and of its folder."""
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.") or "method"
