"""Locate values for error messages: the file and line, or the flag, and the key."""

from difflib import get_close_matches
from typing import Any

from mtlcli.config.evaluation_sets import EvaluationSet
from mtlcli.config.layers import Layer, shown
from mtlcli.config.schema import ONE_FILE, SEVERAL_SETS, Config
from mtlcli.errors import did_you_mean, suggest


class Places:
    """Find the name of the place where a value was written."""

    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers

    def of(self, path: tuple[Any, ...]) -> str:
        """Return `recipe.yaml:7: tasks.sst.head` or `--lr`; the key alone if no layer sets it."""
        parts = tuple(map(str, path))
        # A section that only exists because one of its keys was set has the place of that key.
        if len(parts) > 2 and not self._written(parts) and (place := self._written_below(parts)):
            return _join_place(place, ".".join(parts))
        # A default below a written section has no place, so its nearest section stands for it.
        for length in range(len(parts), 0, -1):
            if place := self._written(parts[:length]):
                return _join_place(place, ".".join(parts))
        return ".".join(parts)

    def of_choice(self, path: tuple[Any, ...]) -> str:
        """Return the place of the plugin's name selected at a path, which may be written below the path."""
        parts = tuple(map(str, path))
        below = self._written((*parts, "kind" if len(parts) == 2 and parts[0] == "tasks" else "name"))
        return _join_place(below, ".".join(parts)) if below else self.of(path)

    def _written(self, parts: tuple[str, ...]) -> str:
        """Return the place of the last layer that sets this path."""
        for layer in reversed(self.layers):
            # As texts, because an index is a number in a recipe and a text in --set.
            for written, place in layer.places.items():
                if len(written) == len(parts) and tuple(map(str, written)) == parts:
                    return place
            if _replaces_list(layer, parts):
                return ""
        return ""

    def _written_below(self, parts: tuple[str, ...]) -> str:
        """Return the place of the last layer that sets a key of a mapping at this path."""
        for layer in reversed(self.layers):
            for written, place in layer.places.items():
                if len(written) > len(parts) and tuple(map(str, written[: len(parts)])) == parts:
                    return place
        return ""

    def explain(self, detail: Any) -> str:
        """Return one line for an error of pydantic."""
        # pydantic adds the member of a union to the location.
        kinds = ("function-before", "literal['epoch']", "int", ONE_FILE, SEVERAL_SETS)
        # The first two parts stay, because a task may be named like a type, such as `int`.
        path = tuple(part for index, part in enumerate(detail["loc"]) if index < 2 or part not in kinds)
        if detail["type"] == "extra_forbidden":
            return f"{self.of(path)}: unknown key{suggest_key(path)}"
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] in ("model_type", "dict_type"):
            message = "expected a mapping of keys to values"
        return f"{self.of(path)}: found {shown(detail['input'])}: {message[0].lower()}{message[1:]}"


def _replaces_list(layer: Layer, parts: tuple[str, ...]) -> bool:
    """Return whether a layer sets a list on the path as a whole, so that lower layers say nothing about its items."""
    # `tasks` is a mapping once its short forms are expanded, and a task may be named by a number.
    lists = {parts[:end] for end in range(1, len(parts)) if parts[end].isdecimal()} - {("tasks",)}
    return any(tuple(map(str, written)) in lists for written in layer.places)


def _join_place(place: str, dotted: str) -> str:
    # `--set tasks.sst.head` already names the key.
    return place if place.startswith("--") and dotted in place else f"{place}: {dotted}"


def suggest_key(path: tuple[Any, ...]) -> str:
    """Return the end of an error line about an unknown key: a similar key of this section or of another."""
    model: Any = Config.model_fields[path[0]].annotation if len(path) > 1 else Config
    # The only sections below a task whose keys are fixed are its evaluation sets.
    model = EvaluationSet if path[0] == "tasks" and len(path) > 1 else model
    keys: list[str] = list(getattr(model, "model_fields", {}))
    name = str(path[-1])
    if near := did_you_mean(name, keys):
        return near
    elsewhere = {
        below: f"{key}.{below}"
        for key, field in Config.model_fields.items()
        for below in getattr(field.annotation, "model_fields", {})
    }
    # A key of another section must be nearly equal to be suggested.
    matches = get_close_matches(name, elsewhere, n=1, cutoff=0.8)
    return f'; did you mean "{elsewhere[matches[0]]}"?' if matches else suggest(name, keys)
