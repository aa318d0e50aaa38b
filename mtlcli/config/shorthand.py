"""What a layer may say shortly, written out: tasks by name alone, two methods joined by `+`, relative paths."""

import os
from pathlib import Path
from typing import Any

from mtlcli import registry
from mtlcli.config.layers import Layer
from mtlcli.config.locations import Places
from mtlcli.config.schema import TASK_FILES, listed
from mtlcli.errors import MtlError, suggest

# options of plugins whose values are folders by task name
FOLDERS = (("balancer", "teachers"),)


def split_methods(text: str, where: str) -> dict[str, str | None]:
    """`uncertainty+pcgrad` -> {"balancer": "uncertainty", "gradient_regularizer": "pcgrad"}.

    Names are unique across the two families. Raises MtlError for a name of neither, and for two of one family.
    """
    found: dict[str, str | None] = {}
    for name in (part.strip() for part in text.split("+")):
        slots = [
            slot
            for slot, family in (("balancer", "balancers"), ("gradient_regularizer", "gradient_regularizers"))
            if name in registry.names(family)
        ]
        if not slots and ":" in name:
            slots = [registry.family_of(("balancers", "gradient_regularizers"), name, where)[:-1]]
        if not slots:
            known = registry.names("balancers") + registry.names("gradient_regularizers")
            raise MtlError(f'{where}: unknown balancer "{name}"{registry.elsewhere(name) or suggest(name, known)}')
        if len(slots) == 2:
            raise MtlError(f'{where}: "{name}" is both a balancer and a gradient regularizer; set each by its own key')
        if slots[0] in found:
            kind = slots[0].replace("_", " ")
            raise MtlError(f'{where}: "{found[slots[0]]}" and "{name}" are both of the kind {kind}; choose one')
        found[slots[0]] = name
    return found


def plain_tasks(layer: Layer) -> None:
    """Lets a recipe list tasks by name alone, and name one, or one and its kind, without saying more of it."""
    tasks = layer.values.get("tasks")
    where = Places([layer]).of(("tasks",))
    if isinstance(tasks, str):
        tasks = listed(tasks)
    if isinstance(tasks, list):
        if not all(isinstance(name, str) for name in tasks):
            raise MtlError(
                f"{where}: expected names, such as [sst, quora], or a mapping of names to settings (without dashes): "
                "sst: {encoding: single}"
            )
        if twice := [name for index, name in enumerate(tasks) if name in tasks[:index]]:
            raise MtlError(f'{where}: the task "{twice[0]}" is named twice; keep one')
        tasks = dict.fromkeys(tasks)
    if isinstance(tasks, dict):
        layer.values["tasks"] = {name: _plain_task(section) for name, section in tasks.items()}


def _plain_task(section: Any) -> Any:
    if section is None or isinstance(section, str):
        return {"kind": section} if section else {}
    if isinstance(section, dict) and "name" in section and "kind" not in section:
        return {"kind" if key == "name" else key: value for key, value in section.items()}
    return section


def absolute_paths(layer: Layer, base: Path) -> Layer:
    """Makes the relative paths of a layer absolute: they are relative to the file, or the folder, they were written in."""

    def absolute(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        path = os.path.expanduser(value)  # leaves `~nobody` as it is
        found = str((base / path).absolute())
        plain = os.path.normpath(found)  # without `..`, unless a link makes it another place
        return plain if os.path.realpath(plain) == os.path.realpath(found) else found

    values = layer.values
    for key in ("data", "init"):
        if key in values:
            values[key] = absolute(values[key])
    for section in (values.get("tasks") or {}).values() if isinstance(values.get("tasks"), dict) else ():
        for key in TASK_FILES:
            if isinstance(section, dict) and key in section:
                section[key] = absolute(section[key])
    for section, option in FOLDERS:
        chosen = values.get(section)
        by_task = chosen.get(option) if isinstance(chosen, dict) else None
        if isinstance(by_task, dict):
            by_task.update({task: absolute(folder) for task, folder in by_task.items()})
    encoder = values.get("encoder")
    name = encoder.get("name") if isinstance(encoder, dict) else encoder
    if isinstance(name, str) and (
        name.startswith((".", "~")) or (name not in registry.names("encoders") and (base / name).is_dir())
    ):
        if isinstance(encoder, dict):
            encoder["name"] = absolute(name)
        else:
            values["encoder"] = absolute(name)
    return layer


def join_methods(layer: Layer) -> None:
    """Lets `balancer: uncertainty+pcgrad` name both families, in a recipe as on the command line.

    A gradient regularizer alone goes with the balancer `equal`.
    """
    value = layer.values.get("balancer")
    name = value if isinstance(value, str) else value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str) or name in registry.names("balancers"):
        return
    place = layer.places.get(("balancer", "name")) or layer.places.get(("balancer",), "balancer")
    found = split_methods(name, place if place.startswith("--") else f"{place}: balancer")
    options = {key: item for key, item in value.items() if key != "name"} if isinstance(value, dict) else {}
    balancer, regularizer = found.get("balancer"), found.get("gradient_regularizer")
    layer.values["balancer"] = {"name": balancer or "equal", **(options if balancer else {})}
    if regularizer is None:
        return
    own = layer.values.get("gradient_regularizer")
    if own is not None and (own if isinstance(own, str) else own.get("name", regularizer)) != regularizer:
        raise MtlError(f'{place}: "{name}" and the key gradient_regularizer name two of them; choose one')
    layer.values["gradient_regularizer"] = {
        **({} if balancer else options), **(own if isinstance(own, dict) else {}), "name": regularizer,
    }  # fmt: skip
    layer.places.setdefault(("gradient_regularizer",), place)
