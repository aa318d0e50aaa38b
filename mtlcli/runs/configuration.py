"""The configuration of a run: from layers, a recipe file, a mapping or a resolved configuration, new or resumed."""

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from mtlcli.config.layers import Layer, read_recipe
from mtlcli.config.resolve import resolve
from mtlcli.config.schema import Config
from mtlcli.config.shorthand import absolute_paths
from mtlcli.errors import MtlError, suggest
from mtlcli.runs.record import inherited_sections

ConfigSource = str | os.PathLike[str] | Mapping[str, Any] | Config
"""A recipe file, its values, or a resolved configuration."""


def resolve_run(layers: list[Layer], only: list[str] | None = None, resumed: Layer | None = None) -> Config:
    """Resolve the configuration of a run, later layers winning.

    Args:
        layers: recipe, flags and single keys, lowest first.
        only: names of the tasks to train, where a command names them.
        resumed: the stored configuration of a run that is resumed. It already holds what that run inherited from the run that
            `init` names, and the folder of that run may be gone.

    Raises:
        MtlError: all errors of the configuration at once.
    """
    if resumed is None:
        return resolve(layers, only, inherited_sections)
    # Taken before `resolve`, which changes its layers: `resumed` can be one of them.
    sections = {key: resumed.values[key] for key in ("encoder", "architecture")}
    return resolve(layers, only, lambda _: sections)


def stored_config(stored: Layer, folder: Path) -> Config:
    """Resolve the configuration that a run folder holds, without its trackers, which may not be installed here."""
    # Copies, because `resolve` changes its layers and the caller uses `stored` again.
    layer = deepcopy(stored)
    layer.values.pop("trackers", None)
    return resolve_run([absolute_paths(layer, folder)], resumed=deepcopy(stored))


def layers_of(source: ConfigSource | None, sections: Mapping[str, Any]) -> list[Layer]:
    """Return the layers that a Python caller gives: a configuration, and sections that win over it.

    Relative paths in a recipe are relative to its folder, all others to the current one.

    Raises:
        MtlError: the recipe cannot be read, or a section is not a key of the configuration.
    """
    layers = []
    if isinstance(source, Config):
        # The paths of a resolved configuration are absolute.
        layers.append(Layer(source.plain()))
    elif isinstance(source, Mapping):
        layers.append(absolute_paths(Layer(_plain(source)), Path.cwd()))
    elif source is not None:
        path = Path(source)
        layers.append(absolute_paths(read_recipe(path), path.absolute().parent))
    if unknown := [key for key in sections if key not in Config.model_fields]:
        raise MtlError(*(f"{key}: unknown key{suggest(key, Config.model_fields)}" for key in unknown))
    if sections:
        layers.append(absolute_paths(Layer(_plain(sections)), Path.cwd()))
    return layers


def _plain(value: Any) -> Any:
    """Return a copy made of the types that YAML has: paths become texts, tuples lists."""
    if isinstance(value, Mapping):
        return {key: _plain(below) for key, below in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value
