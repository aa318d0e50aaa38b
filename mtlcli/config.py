"""The configuration of a run: defaults < recipe file < flags < `--set`, validated as a whole before anything is slow."""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mtlcli import registry
from mtlcli.errors import MtlError, did_you_mean, one_of, suggest
from mtlcli.recipes import Layer, merge

TASK_FILES = ("train", "dev", "test")
NOT_IN_NAMES = frozenset("./\\ =,:*?\"'<>|")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Choice(BaseModel):
    """A plugin by name with its options; a bare string stands for the name alone."""

    model_config = ConfigDict(extra="allow")
    name: str

    @model_validator(mode="before")
    @classmethod
    def _bare_string(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """What was given besides the core's own fields."""
        return self.__pydantic_extra__ or {}


class HeadChoice(Choice):
    """A head; without a name, the one that the task proposes, with these options."""

    name: str = ""


def _texts(value: Any) -> Any:
    if isinstance(value, str):
        return _listed(value)
    return [_column(item) for item in value] if isinstance(value, list) else _column(value)


def _listed(value: Any) -> Any:
    """`a, b` of `--set`, where a list is expected."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _column(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str | dict) else value


Encoding = Literal["single", "cross", "bi"]
Columns = Annotated[list[str], BeforeValidator(_texts)]


class TaskConfig(Choice):
    """One task of the run. Keys that are not listed here are options of the task's plugin."""

    name: str = Field(
        "", description="the kind of task, a plugin; by default the one of the task's own name", alias="kind"
    )
    head: HeadChoice | None = Field(None, description="the head; by default the one the task proposes for its encoding")
    encoding: Encoding | None = Field(
        None, description="how the texts reach the encoder: single, cross (pair in one sequence) or bi (each alone)"
    )
    train: str | None = Field(None, description="training file (CSV, TSV, JSONL)")
    dev: str | None = Field(None, description="file to evaluate on while training")
    test: str | None = Field(None, description="file that only `mtl eval` reads")
    text: Columns | None = Field(None, description="column(s) of the text, by header name or number from 0")
    label: Annotated[str, BeforeValidator(_column)] | None = Field(
        None, description="column of the label, by header name or number from 0"
    )
    header: bool = Field(True, description="whether the first line names the columns")
    labels: Columns | None = Field(
        None, description="the classes in order; by default those of the training rows, sorted"
    )
    range: Annotated[tuple[float, float], BeforeValidator(_listed)] | None = Field(
        None, description="lowest and highest score; by default those of the training rows"
    )
    max_rows: int | None = Field(None, ge=1, description="train on this many rows, drawn with the seed")
    batch_size: int | None = Field(
        None, ge=1, description="rows per micro-batch of this task; by default training.batch_size"
    )
    on_bad_row: Literal["error", "skip"] | None = Field(
        None, description="stop at a row that cannot be read, or skip and count it"
    )

    model_config = ConfigDict(extra="allow", populate_by_name=True, allow_inf_nan=False)


class EncoderConfig(Choice):
    """The encoder. Keys that are not listed here are options of the encoder's plugin."""

    name: str = "tiny"
    pooling: Literal["cls", "mean", "max"] = "mean"
    layer: int = Field(-1, description="hidden layer the heads read: -1 the last, -2 the one before, 0 the embeddings")
    max_length: int = Field(
        128, ge=4, description="longest input in tokens, a pair together; longer ones are truncated"
    )


class OptimizerConfig(_Strict):
    """AdamW with one group for the encoder, one for the heads and one for what the balancer learns."""

    lr: float = Field(5e-5, gt=0, description="peak learning rate of the encoder")
    head_lr: float | None = Field(None, gt=0, description="of the heads; by default ten times lr")
    balancer_lr: float = Field(0.025, gt=0, description="of what balancer, scheduler and regularizers learn")
    weight_decay: float = Field(0.01, ge=0, description="on weight matrices only: not on biases, norms or the balancer")
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    warmup: float = Field(0.06, ge=0, le=1, description="share of the steps over which the rate rises from zero")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="how the rate falls after the warm-up"
    )
    clip: float | None = Field(1.0, gt=0, description="largest global norm of the combined gradient; null: none")


class TrainingConfig(_Strict):
    """How long, how large, how often and where."""

    epochs: int | None = Field(None, ge=1, description="by default 3; not together with steps")
    steps: int | None = Field(None, ge=1, description="total number of optimizer updates")
    steps_per_epoch: int | None = Field(None, ge=1, description="by default what one pass over the largest task needs")
    batch_size: int = Field(16, ge=1, description="rows per micro-batch")
    micro_batches: int = Field(
        1, ge=1, description="micro-batches per step: of each task it visits, or draws of a sampling scheduler"
    )
    eval_every: Literal["epoch"] | int = Field(
        "epoch", description="evaluate on dev every epoch or every so many steps"
    )
    save_every: int | None = Field(None, ge=1, description="also save a checkpoint every so many steps")
    keep_last: int = Field(1, ge=1, description="checkpoints kept besides the best one")
    select_by: str = Field(
        "mean", description="mean of the primary metrics, normalized-mean (each from 0 to 1), or TASK.METRIC"
    )
    patience: int | None = Field(None, ge=1, description="stop after this many evaluations without a better one")
    seed: int = Field(42, ge=0)
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 autocast on GPUs that have it, else fp32"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    on_nan: Literal["stop", "skip"] = Field(
        "stop", description="when a loss or gradient is not finite: stop, or skip the step and count"
    )


class Config(_Strict):
    """The whole run. `config.yaml` in the run folder is this, resolved."""

    tasks: dict[str, TaskConfig] = Field(default_factory=dict)
    data: str | None = Field(None, description="folder with the files that the tasks expect")
    sample: bool = Field(False, description="use the made-up corpus that comes with mtlcli")
    encoder: EncoderConfig = EncoderConfig()
    architecture: Choice = Choice(name="hard-sharing")
    scheduler: Choice = Choice(name="round-robin")
    balancer: Choice = Choice(name="equal")
    gradient_regularizer: Choice | None = None
    regularizers: Annotated[list[Choice], BeforeValidator(_one_or_more)] = Field(default_factory=list)
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()

    def plain(self) -> dict[str, Any]:
        """The configuration as plain values that read back as the same configuration."""
        return self.model_dump(mode="json", by_alias=True)


# sections in which saying nothing, `training:` alone, is the same as leaving them out
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
            raise MtlError(f'{where}: unknown balancer "{name}"{suggest(name, known)}')
        if len(slots) == 2:
            raise MtlError(f'{where}: "{name}" is both a balancer and a gradient regularizer; set each by its own key')
        if slots[0] in found:
            kind = slots[0].replace("_", " ")
            raise MtlError(f'{where}: "{found[slots[0]]}" and "{name}" are both of the kind {kind}; choose one')
        found[slots[0]] = name
    return found


def resolve(layers: list[Layer], only: list[str] | None = None) -> Config:
    """Merges the layers, later ones winning, and validates the whole with the options of every plugin it names.

    `only` names the tasks of the run where the command line did; a recipe may hold more. Returns the configuration with
    every default filled in. Raises MtlError with all errors at once, each with the file and line, or the flag, where the
    wrong value was written.
    """
    defaults = {path[0]: Config.model_fields[path[0]].default for path in CHOICES}
    values: dict[str, Any] = {key: {"name": choice.name} for key, choice in defaults.items() if choice is not None}
    places = _Places(layers)
    for layer in layers:
        for key in SECTIONS:
            if key in layer.values and layer.values[key] is None:
                del layer.values[key]
        plain_tasks(layer)
        _join_methods(layer)
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
    if errors:
        raise MtlError(*errors)
    _fill(config)
    return config


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


def plain_tasks(layer: Layer) -> None:
    """Lets a recipe list tasks by name alone, and name one, or one and its kind, without saying more of it."""
    tasks = layer.values.get("tasks")
    where = _Places([layer]).of(("tasks",))
    if isinstance(tasks, str):
        tasks = _listed(tasks)
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
        return str((base / path).absolute())

    values = layer.values
    if "data" in values:
        values["data"] = absolute(values["data"])
    for section in (values.get("tasks") or {}).values() if isinstance(values.get("tasks"), dict) else ():
        for key in TASK_FILES:
            if isinstance(section, dict) and key in section:
                section[key] = absolute(section[key])
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


def _join_methods(layer: Layer) -> None:
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


class _Places:
    """Finds what to call the place where a value was written."""

    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers

    def of(self, path: tuple[Any, ...]) -> str:
        """`recipe.yaml:7: tasks.sst.head` or `--lr`; the key alone when nobody wrote it."""
        parts = tuple(map(str, path))
        for length in range(len(parts), 0, -1):
            if place := self._written(parts[:length]):
                return _join_place(place, ".".join(parts))
        return ".".join(parts)

    def of_choice(self, path: tuple[Any, ...]) -> str:
        """The same for the name of the plugin chosen at a path, which may have been written below it."""
        parts = tuple(map(str, path))
        below = self._written((*parts, "kind" if len(parts) == 2 and parts[0] == "tasks" else "name"))
        return _join_place(below, ".".join(parts)) if below else self.of(path)

    def _written(self, parts: tuple[str, ...]) -> str:
        """Where the last layer that says something at this path was written."""
        for layer in reversed(self.layers):
            for written, place in layer.places.items():
                if len(written) == len(parts) and tuple(map(str, written)) == parts:
                    return place
        return ""

    def explain(self, detail: Any) -> str:
        """One line for one error of pydantic."""
        kinds = ("function-before", "literal['epoch']", "int")  # what pydantic says of unions
        path = tuple(part for index, part in enumerate(detail["loc"]) if index < 2 or part not in kinds)
        if detail["type"] == "extra_forbidden":
            return f"{self.of(path)}: unknown key{suggest_key(path)}"
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] in ("model_type", "dict_type"):
            message = "expected a mapping of keys to values"
        return f"{self.of(path)}: found {_shown(detail['input'])}: {message[0].lower()}{message[1:]}"


def _join_place(place: str, dotted: str) -> str:
    return place if place.startswith("--") and dotted in place else f"{place}: {dotted}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def suggest_key(path: tuple[Any, ...]) -> str:
    """The end of an error line about an unknown key: the key that was probably meant, of this section or another."""
    model = Config.model_fields[path[0]].annotation if len(path) > 1 else Config
    known: list[str] = list(getattr(model, "model_fields", {}))
    name = str(path[-1])
    if near := did_you_mean(name, known):
        return near
    elsewhere = {
        below: f"{key}.{below}"
        for key, field in Config.model_fields.items()
        for below in getattr(field.annotation, "model_fields", {})
    }
    found = get_close_matches(name, elsewhere, n=1, cutoff=0.8)
    return f'; did you mean "{elsewhere[found[0]]}"?' if found else suggest(name, known)


def _check_core(config: Config, places: _Places, errors: list[str]) -> None:
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


def _check_plugins(config: Config, places: _Places, errors: list[str]) -> None:
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


def _check_head(name: str, task: TaskConfig, plugin: Any, places: _Places, errors: list[str], check: Any) -> None:
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


def is_encoder_plugin(name: str) -> bool:
    """Whether an encoder's name is a plugin's, rather than a folder or a hub id."""
    return name in registry.names("encoders") or (":" in name and not Path(name).exists())
