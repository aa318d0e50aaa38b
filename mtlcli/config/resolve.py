"""From layers to one configuration: defaults < recipe < flags < `--set`, checked as a whole before anything is slow."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from mtlcli import registry
from mtlcli.config.layers import Layer, merge
from mtlcli.config.locations import Places, shown
from mtlcli.config.schema import Choice, Config, EncoderConfig, HeadChoice, TaskConfig, is_encoder_plugin
from mtlcli.config.shorthand import join_methods, plain_tasks
from mtlcli.errors import MtlError, did_you_mean, one_of, suggest

NOT_IN_NAMES = frozenset("./\\ =,:*?\"'<>|")
SECTIONS = ("tasks", "encoder", "architecture", "scheduler", "balancer", "regularizers", "optimizer", "training")

# keys of which the later layer's wins: setting one takes back the other
EXCLUSIVE = ((("training", "steps"), ("training", "epochs")), (("sample",), ("data",)))

# which sections choose a plugin, and of which family
CHOICES = {
    ("encoder",): "encoders",
    ("architecture",): "architectures",
    ("scheduler",): "schedulers",
    ("balancer",): "balancers",
    ("gradient_regularizer",): "gradient_regularizers",
}


Inherit = Callable[[Path], Mapping[str, Any]]
"""Takes the folder that `init` names and returns the sections `encoder` and `architecture` of the run in it."""


def resolve(layers: list[Layer], only: list[str] | None = None, inherit: Inherit | None = None) -> Config:
    """Merge the layers, later ones winning, and validate the result with the options of every plugin it names.

    `only` names the tasks of the run where the command line did; a recipe may hold more. `inherit` reads the run that `init`
    names; without it, a configuration with `init` must already hold that run's encoder and architecture.

    Returns:
        The configuration with every default filled in.

    Raises:
        MtlError: all errors at once, each with the file and line, or the flag, where the wrong value was written.
    """
    defaults = {path[0]: Config.model_fields[path[0]].default for path in CHOICES}
    values: dict[str, Any] = {key: {"name": choice.name} for key, choice in defaults.items() if choice is not None}
    places = Places(layers)
    origin = _origin(layers, places, inherit)
    values |= deepcopy(origin)
    for layer in layers:
        for key in SECTIONS:
            if key in layer.values and layer.values[key] is None:
                del layer.values[key]
        plain_tasks(layer)
        join_methods(layer)
        _take_back(values, layer.values)
        values = merge(values, layer.values, _kept)
    if only and isinstance(values.get("tasks"), dict):
        for path, place in (item for layer in layers for item in layer.places.items()):
            if len(path) > 1 and path[0] == "tasks" and path[1] not in only and place.startswith("--"):
                raise MtlError(f"{place}: the run has no task of this name{suggest(str(path[1]), only)}")
        values["tasks"] = {name: values["tasks"].get(name, {}) for name in only}
    values = merge(_recommended(values), values, _kept)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
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
    """The encoder is that of the run that `init` names: another one, or other options of it, would not be heeded."""
    if config.encoder.name != stored.name:
        errors.append(
            f'{places.of_choice(("encoder",))}: found "{config.encoder.name}", but the run to start from has the encoder '
            f'"{stored.name}"; leave the encoder out, or init'
        )
        return
    for key, value in config.encoder.options.items():
        if key in stored.options and stored.options[key] != value:
            errors.append(
                f"{places.of(('encoder', key))}: found {shown(value)}, but the encoder of the run to start from was made with "
                f"{shown(stored.options[key])}; leave it out, or init"
            )


def _recommended(values: dict[str, Any]) -> dict[str, Any]:
    """What the chosen encoder's plugin recommends, less what excludes something the user chose."""
    section = values.get("encoder")
    name = section.get("name") if isinstance(section, dict) else None
    if not isinstance(name, str) or not is_encoder_plugin(name):
        return {}
    try:
        plugin = registry.load("encoders", name, "encoder")
    except MtlError:
        return {}  # reported with all other errors
    found = {key: dict(below) for key, below in plugin.recommended.items()}
    _take_back(found, values)
    return found


def _fill(config: Config) -> None:
    """What is left open and follows from something else."""
    if config.optimizer.head_lr is None:
        config.optimizer.head_lr = 10 * config.optimizer.lr
    if config.training.epochs is None and config.training.steps is None:
        config.training.epochs = 3


def _kept(path: tuple[Any, ...]) -> tuple[str, ...] | None:
    """What stays of the section at a path when another plugin is chosen there; None where no plugin is chosen."""
    if path == ("encoder",):
        return tuple(name for name in EncoderConfig.model_fields if name != "name")
    return () if path in CHOICES or (len(path) == 3 and path[::2] == ("tasks", "head")) else None


def _take_back(below: dict[str, Any], above: dict[str, Any]) -> None:
    """Of two keys that exclude each other, drops the one below where a layer above sets the other."""

    def section(values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        found = values if len(path) == 1 else values.get(path[0])
        return found if isinstance(found, dict) else {}

    for pair in EXCLUSIVE:
        for chosen, other in (pair, pair[::-1]):
            if section(above, chosen).get(chosen[-1]) not in (None, False):
                section(below, other).pop(other[-1], None)


def _check_core(config: Config, places: Places, errors: list[str]) -> None:
    training = config.training
    if not config.tasks:
        errors.append("no task: name at least one, such as --task sst, or under `tasks:` in a recipe")
    if training.epochs is not None and training.steps is not None:
        errors.append(f"{places.of(('training', 'steps'))}: steps and epochs exclude each other; give one")
    if isinstance(training.eval_every, int) and training.eval_every < 1:
        errors.append(
            f"{places.of(('training', 'eval_every'))}: found {training.eval_every}: expected `epoch` or a number from 1"
        )
    if config.sample and config.data is not None:
        errors.append(f"{places.of(('data',))}: data and sample exclude each other; give one")
    for name, task in config.tasks.items():
        if task.range is not None and not task.range[0] < task.range[1]:
            errors.append(
                f"{places.of(('tasks', name, 'range'))}: found {list(task.range)}: expected [lowest, highest]"
            )
        if not name or len(name) > 100 or any(mark in NOT_IN_NAMES or not mark.isprintable() for mark in name):
            errors.append(
                f"{places.of(('tasks', name))}: a task's name is part of file names: expected 1 to 100 letters, digits, "
                "dashes or underscores"
            )


def _check_plugins(config: Config, places: Places, errors: list[str]) -> None:
    def check(family: str, choice: Choice, path: tuple[Any, ...], core: type[BaseModel] = Choice) -> type | None:
        known = () if core is Choice else tuple(field.alias or name for name, field in core.model_fields.items())
        try:
            found = registry.check_options(family, choice.name, choice.options, places.of_choice(path), known)
        except MtlError as error:
            errors.extend(error.lines)
            return None
        plugin, options, wrong = found
        errors.extend(f"{places.of((*path, *option.split('.')))}: {message}" for option, message in wrong)
        if not wrong:
            choice.__pydantic_extra__ = options
        return plugin

    for path, family in CHOICES.items():
        choice = getattr(config, path[0])
        if choice is not None and not (family == "encoders" and not is_encoder_plugin(choice.name)):
            check(family, choice, path, EncoderConfig if family == "encoders" else Choice)
        elif choice is not None and choice.options:
            errors.extend(
                f"{places.of((*path, unknown))}: unknown key{suggest(unknown, EncoderConfig.model_fields)}"
                for unknown in choice.options
            )
    for index, choice in enumerate(config.regularizers):
        check("regularizers", choice, ("regularizers", index))
    for name, task in config.tasks.items():
        if not task.name:
            if name not in registry.names("tasks"):
                known = registry.names("tasks")
                errors.append(
                    f'{places.of(("tasks", name))}: "{name}" is not a known task{did_you_mean(name, known)}; for a task of '
                    f"your own say what it is: --set tasks.{name}.kind=classification (or regression, "
                    "pair-classification, pair-regression)"
                )
                continue
            task.name = name
        plugin = check("tasks", task, ("tasks", name), TaskConfig)
        if plugin is not None:
            _check_head(name, task, plugin, places, errors, check)


def _check_head(name: str, task: TaskConfig, plugin: Any, places: Places, errors: list[str], check: Any) -> None:
    encodings = plugin.heads
    if task.encoding is None:
        task.encoding = next(iter(encodings))
    elif task.encoding not in encodings:
        errors.append(
            f'{places.of(("tasks", name, "encoding"))}: found "{task.encoding}": "{task.name}" can be encoded as {one_of(encodings)}'
        )
        return
    task.head = task.head or HeadChoice()
    task.head.name = task.head.name or encodings[task.encoding]
    head = check("heads", task.head, ("tasks", name, "head"))
    sides = 2 if task.encoding == "bi" else 1
    if head is not None and sides not in head.sides:
        cures = [one for one in encodings if (2 if one == "bi" else 1) in head.sides]
        cure = f"set tasks.{name}.encoding to {cures[0]}" if cures else f'choose another head for "{task.name}"'
        wanted = "two texts, each encoded alone" if sides == 1 else "one encoding of each row"
        errors.append(f'{places.of(("tasks", name, "head"))}: "{task.head.name}" reads {wanted}; {cure}')
