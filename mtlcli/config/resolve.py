"""Resolve layers to one configuration: defaults < recipe < flags < `--set`, validated before any slow work."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mtlcli import registry
from mtlcli.config.evaluation_sets import RESERVED_NAMES
from mtlcli.config.layers import Layer, merge, shown
from mtlcli.config.locations import Places
from mtlcli.config.schema import (
    WHOLE_ROWS,
    Choice,
    Config,
    EncoderConfig,
    HeadChoice,
    TaskConfig,
    default_sections,
    is_encoder_plugin,
)
from mtlcli.config.shorthand import join_methods, plain_tasks
from mtlcli.errors import MtlError, did_you_mean, one_of, suggest

# Characters with a meaning in paths, in dotted keys, in `--task NAME=FILE,FILE` or in a shell.
NOT_IN_NAMES = frozenset("./\\ =,:*?\"'<>|")
NULL_MEANS_NONE = ("data", "init", "gradient_regularizer")
"""Top-level keys for which `null` is a value; any other section that is null, such as an empty `training:`, is ignored."""

# Keys that exclude each other: a layer that sets one unsets the other in the layers below.
EXCLUSIVE = ((("training", "steps"), ("training", "epochs")), (("sample",), ("data",)))

CHOICES = frozenset((family.key,) for family in registry.FAMILIES.values() if family.key and not family.many)
"""Paths of the sections that select one plugin."""

Inherit = Callable[[Path], Mapping[str, Any]]
"""A function from the folder that `init` names to the sections `encoder` and `architecture` of the run in it."""


def resolve(layers: list[Layer], only: list[str] | None = None, inherit: Inherit | None = None) -> Config:
    """Merge layers, of which later ones take precedence, and validate the result with the options of every plugin.

    Args:
        layers: from the lowest to the highest.
        only: the tasks of the run if the command line names any; the recipe may define more.
        inherit: reads the run that `init` names; without it, a configuration with `init` must already contain that run's
            encoder and architecture.

    Returns:
        The configuration with every default filled in.

    Raises:
        MtlError: all errors at once, each with the file and line, or the flag, where the wrong value was written.
    """
    # With the names of default plugins, so that a layer may set an option of one without its name.
    values: dict[str, Any] = dict(default_sections())
    places = Places(layers)
    origin = _origin(layers, places, inherit)
    values |= deepcopy(origin)
    for layer in layers:
        for key in [key for key, value in layer.values.items() if value is None and key not in NULL_MEANS_NONE]:
            if key in Config.model_fields:
                del layer.values[key]
        # `merge` compares sections key by key, so short forms are expanded first.
        plain_tasks(layer)
        join_methods(layer)
        # Before merging: --steps on the command line must unset epochs in the recipe.
        _unset_excluded(values, layer.values)
        values = merge(values, layer.values, _surviving_keys)
    if only and isinstance(values.get("tasks"), dict):
        for path, place in (item for layer in layers for item in layer.places.items()):
            if len(path) > 1 and path[0] == "tasks" and path[1] not in only and place.startswith("--"):
                raise MtlError(f"{place}: the run has no task of this name{suggest(str(path[1]), only)}")
        values["tasks"] = {name: values["tasks"].get(name, {}) for name in only}
    # Last but lowest, because the encoder is only known once all layers are merged.
    values = merge(_recommended(values), values, _surviving_keys)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        # Several members of a union may reject a value for the same reason.
        raise MtlError(*dict.fromkeys(places.explain(detail) for detail in error.errors())) from None
    errors: list[str] = []
    _check_core(config, places, errors)
    _check_plugins(config, places, errors)
    if origin:
        _check_encoder(config, EncoderConfig.model_validate(origin["encoder"]), places, errors)
    if errors:
        raise MtlError(*errors)
    _fill(config)
    return config


def _origin(layers: list[Layer], places: Places, inherit: Inherit | None) -> dict[str, Any]:
    """Return the sections that a run inherits from the run that `init` names; empty without one."""
    named = [layer.values["init"] for layer in layers if "init" in layer.values]
    if inherit is None or not named or not isinstance(named[-1], str):
        return {}
    try:
        return dict(inherit(Path(named[-1])))
    except MtlError as error:
        raise MtlError(*(f"{places.of(('init',))}: {line}" for line in error.lines)) from error


def _check_encoder(config: Config, stored: EncoderConfig, places: Places, errors: list[str]) -> None:
    """Reject an encoder or encoder options that differ from those of the run named by `init`, which would be ignored."""
    if config.encoder.name != stored.name:
        errors.append(
            f'{places.of_choice(("encoder",))}: found "{config.encoder.name}", but the run to start from has the encoder '
            f'"{stored.name}"; remove encoder or init'
        )
        return
    # Only options of the plugin: pooling, layer and max_length do not change the encoder itself and may differ.
    for key, value in config.encoder.options.items():
        if key in stored.options and stored.options[key] != value:
            errors.append(
                f"{places.of(('encoder', key))}: found {shown(value)}, but the encoder of the run to start from has "
                f"{shown(stored.options[key])}; remove this key or init"
            )


def _recommended(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that the encoder's plugin recommends, without those that exclude a key set by the user."""
    section = values.get("encoder")
    name = section.get("name") if isinstance(section, dict) else None
    if not isinstance(name, str) or not is_encoder_plugin(name):
        return {}
    try:
        plugin = registry.load("encoders", name, "encoder")
    except MtlError:
        return {}  # `_check_plugins` reports it together with all other errors
    recommended = {key: dict(section) for key, section in plugin.recommended.items()}
    _unset_excluded(recommended, values)
    return recommended


def _fill(config: Config) -> None:
    """Fill in the defaults that depend on other keys."""
    if config.optimizer.head_lr is None:
        config.optimizer.head_lr = 10 * config.optimizer.lr
    if config.training.epochs is None and config.training.steps is None:
        config.training.epochs = 3
    rows_read = [(task.train, task.where or {}) for task in config.tasks.values()]
    for task, read in zip(config.tasks.values(), rows_read, strict=True):
        # Columns of one file as several tasks: not every row need have all labels.
        if task.train is not None and rows_read.count(read) > 1:
            task.unlabeled = "keep"


def _surviving_keys(path: tuple[Any, ...]) -> tuple[str, ...] | None:
    """Return the keys of a section that survive when another plugin is selected; None if the section selects no plugin."""
    if path == ("encoder",):
        return tuple(name for name in EncoderConfig.model_fields if name != "name")
    return () if path in CHOICES or (len(path) == 3 and path[::2] == ("tasks", "head")) else None


def _unset_excluded(below: dict[str, Any], above: dict[str, Any]) -> None:
    """Unset the keys of `below` that a key set in `above` excludes."""

    def section(values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        holder = values if len(path) == 1 else values.get(path[0])
        return holder if isinstance(holder, dict) else {}

    for pair in EXCLUSIVE:
        for path, excluded in (pair, pair[::-1]):
            # `sample: false` and `steps: null` set nothing, so they exclude nothing.
            if section(above, path).get(path[-1]) not in (None, False):
                section(below, excluded).pop(excluded[-1], None)


def _check_core(config: Config, places: Places, errors: list[str]) -> None:
    training = config.training
    if not config.tasks:
        errors.append("no task: name at least one, with --task sst or under `tasks:` in a recipe")
    if training.epochs is not None and training.steps is not None:
        errors.append(f"{places.of(('training', 'steps'))}: steps and epochs exclude each other; set only one")
    if isinstance(training.eval_every, int) and training.eval_every < 1:
        errors.append(
            f"{places.of(('training', 'eval_every'))}: found {training.eval_every}: expected `epoch` or a number from 1"
        )
    parts = training.select_by.split(".")
    if len(parts) == 3 and parts[0] in config.tasks and parts[1] in config.tasks[parts[0]].sets_of("dev"):
        errors.append(
            f'{places.of(("training", "select_by"))}: found "{training.select_by}": expected {parts[0]}.{parts[2]}; to select by the '
            f"set {parts[1]} alone, add tasks.{parts[0]}.select_dev={parts[1]}"
        )
    if config.tasks and all(task.auxiliary for task in config.tasks.values()):
        name = next(iter(config.tasks))
        errors.append(
            f"{places.of(('tasks', name, 'auxiliary'))}: every task is auxiliary, so none is left to select checkpoints by; "
            "leave one that counts"
        )
    if config.sample and config.data is not None:
        errors.append(f"{places.of(('data',))}: data and sample exclude each other; set only one")
    for name, task in config.tasks.items():
        if task.range is not None and not task.range[0] < task.range[1]:
            errors.append(
                f"{places.of(('tasks', name, 'range'))}: found {list(task.range)}: expected [lowest, highest]"
            )
        if task.focal and task.label_smoothing:
            errors.append(
                f"{places.of(('tasks', name, 'focal'))}: focal and label_smoothing exclude each other; remove one of them"
            )
        if not _is_name(name):
            errors.append(
                f"{places.of(('tasks', name))}: a task's name is part of file names: expected 1 to 100 letters, digits, "
                "dashes or underscores"
            )
        _check_sets(name, task, places, errors)


def _is_name(text: str) -> bool:
    """Return whether a text can be the name of a task or a set, which is part of file names."""
    return 0 < len(text) <= 100 and not any(mark in NOT_IN_NAMES or not mark.isprintable() for mark in text)


def _check_sets(name: str, task: TaskConfig, places: Places, errors: list[str]) -> None:
    """Check the names of a task's evaluation sets."""
    for kind in ("dev", "test"):
        for part in task.sets_of(kind):
            where = places.of(("tasks", name, kind, part))
            if part in RESERVED_NAMES:
                errors.append(
                    f'{where}: "{part}" cannot be the name of a set; write {kind}: {{NAME: FILE}}, or {kind}: {{NAME: {{file: FILE, '
                    "where: ...}} with another name"
                )
            elif not _is_name(part):
                errors.append(
                    f"{where}: a set's name is part of file names: expected 1 to 100 letters, digits, dashes or underscores"
                )
    sets = task.sets_of("dev")
    where = places.of(("tasks", name, "select_dev"))
    errors.extend(
        f'{where}: no dev set "{part}"{suggest(part, sets)}' for part in task.select_dev or () if part not in sets
    )


def _check_plugins(config: Config, places: Places, errors: list[str]) -> None:
    for family in registry.FAMILIES.values():
        for index, choice in enumerate(config.choices(family.name) if family.key else ()):
            path = (family.key, index) if family.many else (family.key,)
            # A model folder or Hub id has no plugin, so every key that is not the core's is unknown.
            if isinstance(choice, EncoderConfig) and not is_encoder_plugin(choice.name):
                errors.extend(
                    f"{places.of((*path, key))}: unknown key{suggest(key, EncoderConfig.model_fields)}"
                    for key in choice.options
                )
            else:
                _check_choice(choice, path, places, errors)
    for name, task in config.tasks.items():
        if not task.name and name not in registry.names("tasks"):
            errors.append(
                f'{places.of(("tasks", name))}: "{name}" is not a known task{did_you_mean(name, registry.names("tasks"))}; '
                f"for your own task set its kind, such as --set tasks.{name}.kind=classification (mtl plugins list tasks shows all), "
                f"and its columns, unless they have common names such as text and label: --set tasks.{name}.text=COLUMN "
                f"--set tasks.{name}.label=COLUMN"
            )
            continue
        task.name = task.name or name
        # The class of the task decides about heads and metrics, so they cannot be checked without it.
        if _check_choice(task, ("tasks", name), places, errors):
            # A task without metrics cannot select checkpoints.
            task.auxiliary = task.auxiliary or not (task.plugin.metrics or task.metrics)
            _check_head(name, task, places, errors)
        _check_metrics(name, task, places, errors)


def _check_choice(choice: Choice, path: tuple[Any, ...], places: Places, errors: list[str]) -> bool:
    """Import a plugin and check its options; return whether the plugin could be imported."""
    keys = [field.alias or name for name, field in type(choice).model_fields.items()]
    try:
        wrong = choice.check(places.of_choice(path), keys if len(keys) > 1 else ())
    except MtlError as error:
        errors.extend(error.lines)
        return False
    errors.extend(f"{places.of((*path, *option.split('.')))}: {message}" for option, message in wrong)
    return True


def _check_head(name: str, task: TaskConfig, places: Places, errors: list[str]) -> None:
    encodings = task.plugin.heads
    if task.encoding is None:
        task.encoding = next(iter(encodings))
    elif task.encoding not in encodings:
        errors.append(
            f'{places.of(("tasks", name, "encoding"))}: found "{task.encoding}"; "{task.name}" can be encoded as '
            f"{one_of(encodings)}"
        )
        return
    # Filled in now, so that config.yaml in the run folder states the head and does not depend on later defaults.
    task.head = task.head or HeadChoice()
    task.head._path = f"tasks.{name}.head"
    task.head.name = task.head.name or encodings[task.encoding]
    if not _check_choice(task.head, ("tasks", name, "head"), places, errors):
        return
    items = "" if task.encoding in WHOLE_ROWS else task.encoding
    if items != task.head.plugin.items:
        reads = task.head.plugin.items or "whole rows"
        errors.append(
            f'{places.of(("tasks", name, "head"))}: "{task.head.name}" predicts {reads}, and "{task.name}" {items or "whole rows"}; '
            f"choose another head, such as {encodings[task.encoding]}"
        )
        return
    sides = _sides(task.encoding)
    if sides not in task.head.plugin.sides:
        cures = [encoding for encoding in encodings if _sides(encoding) in task.head.plugin.sides]
        cure = f"set tasks.{name}.encoding to {cures[0]}" if cures else f'choose another head for "{task.name}"'
        input_of_head = "two texts, each encoded alone" if sides == 1 else "one encoding of each row"
        errors.append(f'{places.of(("tasks", name, "head"))}: "{task.head.name}" reads {input_of_head}; {cure}')


def _check_metrics(name: str, task: TaskConfig, places: Places, errors: list[str]) -> None:
    """Check the metrics of a task: their options, and that no two are the same."""
    before = len(errors)
    for index, metric in enumerate(task.metrics or ()):
        _check_choice(metric, ("tasks", name, "metrics", index), places, errors)
    # A title depends on the options, so it is only defined once they are valid.
    if len(errors) == before:
        titles = [metric.title() for metric in task.metrics or ()]
        errors.extend(
            f"{places.of(('tasks', name, 'metrics', index))}: {title} is listed twice; name it once, or with other options"
            for index, title in enumerate(titles)
            if title in titles[:index]
        )
    if task.weighted_metrics and task.weight is None:
        errors.append(
            f"{places.of(('tasks', name, 'weighted_metrics'))}: metrics need the column of the weights: set tasks.{name}.weight"
        )


def _sides(encoding: str | None) -> int:
    """Return how many encodings a row has."""
    return 2 if encoding == "bi" else 1
