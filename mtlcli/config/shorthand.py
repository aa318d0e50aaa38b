"""Expand the short forms of a layer: tasks by name alone, two methods joined by `+`, relative paths."""

import os
from pathlib import Path
from typing import Any

from mtlcli import registry
from mtlcli.config.layers import Layer, check_text, shown
from mtlcli.config.locations import Places
from mtlcli.config.schema import TASK_FILES
from mtlcli.config.values import listed, share_of
from mtlcli.errors import MtlError, suggest

# Options of plugins whose values are folders by task name.
FOLDERS = (("balancer", "teachers"), ("architecture", "peft"), ("architecture", "sources"))

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes that the common file systems and Linux allow in one name, and in a path."""


def split_methods(text: str, where: str) -> dict[str, str]:
    """Split `uncertainty+pcgrad` into {"balancer": "uncertainty", "gradient_regularizer": "pcgrad"}.

    Names are unique across the families that --balancer covers.

    Raises:
        MtlError: a name belongs to none of these families, or two names belong to the same one.
    """
    families = registry.families_of_flag("--balancer")
    methods: dict[str, str] = {}
    for name in (part.strip() for part in text.split("+")):
        matches = [family for family in families if name in registry.names(family.name)]
        # Only its base class shows the family of a class given as package.module:Class, so it is imported.
        if not matches and ":" in name:
            match = registry.family_of([family.name for family in families], name, where)
            matches = [registry.FAMILIES[match]]
        if not matches:
            candidates = [candidate for family in families for candidate in registry.names(family.name)]
            raise MtlError(
                f'{where}: unknown {families[0].kind} "{name}"{registry.elsewhere(name) or suggest(name, candidates)}'
            )
        if len(matches) > 1:
            kinds = " and a ".join(family.kind for family in matches)
            raise MtlError(f'{where}: "{name}" is both a {kinds}; set each by its own key')
        family = matches[0]
        if family.key in methods:
            raise MtlError(
                f'{where}: "{methods[family.key]}" and "{name}" are both of the kind {family.kind}; choose one'
            )
        methods[family.key] = name
    return methods


def plain_tasks(layer: Layer) -> None:
    """Expand the short forms of `tasks`: a list of names, a single name, and a task that is its kind's name or empty."""
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
            raise MtlError(f'{where}: the task "{twice[0]}" is listed twice; keep one')
        tasks = dict.fromkeys(tasks)
    if isinstance(tasks, dict):
        layer.values["tasks"] = {name: _plain_task(section) for name, section in tasks.items()}


def _plain_task(section: Any) -> Any:
    if section is None or isinstance(section, str):
        return {"kind": section} if section else {}
    # Other sections select a plugin by `name`, so it is accepted here, too.
    if isinstance(section, dict) and "name" in section and "kind" not in section:
        return {"kind" if key == "name" else key: value for key, value in section.items()}
    return section


def absolute_paths(layer: Layer, base: Path) -> Layer:
    """Make the relative paths of a layer absolute: they are relative to its file, or to the current folder for flags.

    Raises:
        MtlError: a path contains invalid characters or is too long.
    """
    places = Places([layer])

    def absolute(value: Any, *path: str) -> Any:
        # tasks.NAME.dev may be a share of the training rows, such as 10%, which is no path.
        if not isinstance(value, str) or (path[::2][:2] == ("tasks", "dev") and share_of(value) is not None):
            return value
        _check_path(value, places.of(path))
        joined = str((base / os.path.expanduser(value)).absolute())  # expanduser leaves `~nobody` as it is
        plain = os.path.normpath(joined)
        # Without `..`, unless a symbolic link makes the normalized path point elsewhere.
        return plain if os.path.realpath(plain) == os.path.realpath(joined) else joined

    def absolute_set(value: Any, *path: str) -> Any:
        if isinstance(value, dict) and "file" in value:
            return value | {"file": absolute(value["file"], *path, "file")}
        return absolute(value, *path)

    values = layer.values
    for key in ("data", "init"):
        if key in values:
            values[key] = absolute(values[key], key)
    tasks = values.get("tasks")
    for name, section in tasks.items() if isinstance(tasks, dict) else ():
        for key in TASK_FILES:
            rows = section.get(key) if isinstance(section, dict) else None
            if isinstance(rows, dict):
                section[key] = {part: absolute_set(below, "tasks", name, key, part) for part, below in rows.items()}
            elif rows is not None:
                section[key] = absolute(rows, "tasks", name, key)
    for key, option in FOLDERS:
        section = values.get(key)
        folders = section.get(option) if isinstance(section, dict) else None
        if isinstance(folders, dict):
            folders.update({task: absolute(folder, key, option, task) for task, folder in folders.items()})
    encoder = values.get("encoder")
    name = encoder.get("name") if isinstance(encoder, dict) else encoder
    if isinstance(name, str):
        path = ("encoder", "name") if isinstance(encoder, dict) else ("encoder",)
        _check_path(name, places.of(path))
        # A Hub id such as `org/model` also looks like a relative path, so it counts as one only if the folder exists.
        if name.startswith((".", "~")) or (name not in registry.names("encoders") and (base / name).is_dir()):
            if isinstance(encoder, dict):
                encoder["name"] = absolute(name, *path)
            else:
                values["encoder"] = absolute(name, *path)
    return layer


def _check_path(text: str, where: str) -> None:
    """Raise MtlError for a text that cannot be a path."""
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        # os.fsencode accepts the surrogates that stand for undecodable bytes of a file name, and no others.
        check_text(text, where)
        raise
    if b"\0" in encoded:
        check_text(text, where)
    longest = max(map(len, encoded.split(b"/")))
    if longest > LONGEST_NAME or len(encoded) > LONGEST_PATH:
        raise MtlError(
            f"{where}: found a path of {len(encoded)} bytes, {shown(text)}; expected at most {LONGEST_PATH}, and {LONGEST_NAME} "
            "in each name"
        )


def join_methods(layer: Layer) -> None:
    """Expand `balancer: uncertainty+pcgrad`, which names plugins of two families, as --balancer does.

    A gradient regularizer alone is combined with the default balancer.
    """
    value = layer.values.get("balancer")
    name = value if isinstance(value, str) else value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str) or name in registry.names("balancers"):
        return
    place = layer.places.get(("balancer", "name")) or layer.places.get(("balancer",), "balancer")
    methods = split_methods(name, place if place.startswith("--") else f"{place}: balancer")
    options = {key: item for key, item in value.items() if key != "name"} if isinstance(value, dict) else {}
    balancer, regularizer = methods.get("balancer"), methods.get("gradient_regularizer")
    default = registry.FAMILIES["balancers"].default
    layer.values["balancer"] = {"name": balancer or default, **(options if balancer else {})}
    if regularizer is None:
        return
    section = layer.values.get("gradient_regularizer")
    if (
        # A section without a name has options for the regularizer that the balancer key names.
        section is not None
        and (section if isinstance(section, str) else section.get("name", regularizer)) != regularizer
    ):
        raise MtlError(f'{place}: "{name}" and the key gradient_regularizer name two of them; choose one')
    layer.values["gradient_regularizer"] = {
        **({} if balancer else options), **(section if isinstance(section, dict) else {}), "name": regularizer,
    }  # fmt: skip
    layer.places.setdefault(("gradient_regularizer",), place)
