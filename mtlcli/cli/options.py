"""Define the options that several commands share, and resolve them to a configuration."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mtlcli.errors import MtlError, suggest

if TYPE_CHECKING:
    from mtlcli.config.layers import Layer
    from mtlcli.config.schema import Config

Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task", "-t", metavar="NAME[=TRAIN[,DEV[,TEST]]]", help="Train this task, on these files if given. Repeatable"
    ),
]
Auxiliary = Annotated[
    list[str] | None,
    typer.Option("--auxiliary", metavar="NAME", help="Train this task without evaluating or counting it. Repeatable"),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="Recipe file in YAML; flags override it")]
Data = Annotated[str | None, typer.Option(help="Folder with the files that the tasks expect")]
Sample = Annotated[bool, typer.Option("--sample", help="Use the made-up corpus that comes with mtlcli")]
Init = Annotated[
    str | None,
    typer.Option(
        metavar="RUN", help="Start from a finished run: its encoder, and its heads for tasks of the same name"
    ),
]
Encoder = Annotated[
    str | None, typer.Option(help="tiny, another installed encoder, a model folder, or a Hub id [default: tiny]")
]
Pooling = Annotated[str | None, typer.Option(help="cls, mean or max [default: mean]")]
MaxLength = Annotated[int | None, typer.Option(help="Longest input in tokens [default: 128]")]
SchedulerName = Annotated[
    str | None, typer.Option("--scheduler", help="Method that selects the tasks of each step [default: round-robin]")
]
BalancerName = Annotated[
    str | None,
    typer.Option(
        "--balancer", help="Loss balancer, gradient regularizer, or both: uncertainty+pcgrad [default: equal]"
    ),
]
Regularizers = Annotated[
    list[str] | None,
    typer.Option("--regularizer", metavar="NAME", help="Add a regularizer of the loss or the weights. Repeatable"),
]
Trackers = Annotated[
    list[str] | None,
    typer.Option("--tracker", metavar="NAME", help="Show the run in another program, such as tensorboard. Repeatable"),
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the largest task [default: 3]")]
Steps = Annotated[int | None, typer.Option(help="Optimizer updates, instead of epochs")]
BatchSize = Annotated[int | None, typer.Option(help="Rows per micro-batch [default: 16; tiny: 32]")]
MicroBatches = Annotated[int | None, typer.Option(help="Micro-batches per step and task [default: 1]")]
Lr = Annotated[
    float | None, typer.Option(help="Peak learning rate of the encoder [default: 5e-5, or as the encoder recommends]")
]
HeadLr = Annotated[
    float | None,
    typer.Option(help="Peak learning rate of the heads [default: 10 x --lr, or as the encoder recommends]"),
]
Seed = Annotated[int | None, typer.Option(help="Random seed [default: 42]")]
Seeds = Annotated[
    str | None, typer.Option(metavar="N,N,...", help="Train once for each of these seeds, into OUTPUT/seed-N")
]
SelectBy = Annotated[
    str | None,
    typer.Option(help="Score that selects the checkpoint: mean, normalized-mean or TASK.METRIC [default: mean]"),
]
Patience = Annotated[
    int | None, typer.Option(metavar="N", help="Stop after N evaluations without improvement [default: never]")
]
Precision = Annotated[str | None, typer.Option(help="auto, fp32 or bf16 [default: auto]")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps [default: auto]")]
OnBadRow = Annotated[str | None, typer.Option(help="Action for rows that cannot be read: error or skip")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Set any key of the configuration: --set tasks.sts.head=cosine. Repeatable"
    ),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Run folder [default: runs/TASKS-METHOD-TIME]")]
Resume = Annotated[bool, typer.Option("--resume", help="Resume the run in --output, or start it if it does not exist")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --output")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only results, warnings and errors")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error")]

# By field of RunOptions: the key that a flag sets, and the flag for error messages.
FLAGS: dict[str, tuple[tuple[str, ...], str]] = {
    "data": (("data",), "--data"),
    "init": (("init",), "--init"),
    "encoder": (("encoder", "name"), "--encoder"),
    "pooling": (("encoder", "pooling"), "--pooling"),
    "max_length": (("encoder", "max_length"), "--max-length"),
    "scheduler": (("scheduler", "name"), "--scheduler"),
    "regularizer": (("regularizers",), "--regularizer"),
    "tracker": (("trackers",), "--tracker"),
    "epochs": (("training", "epochs"), "--epochs"),
    "steps": (("training", "steps"), "--steps"),
    "batch_size": (("training", "batch_size"), "--batch-size"),
    "micro_batches": (("training", "micro_batches"), "--micro-batches"),
    "lr": (("optimizer", "lr"), "--lr"),
    "head_lr": (("optimizer", "head_lr"), "--head-lr"),
    "seed": (("training", "seed"), "--seed"),
    "select_by": (("training", "select_by"), "--select-by"),
    "patience": (("training", "patience"), "--patience"),
    "precision": (("training", "precision"), "--precision"),
    "device": (("training", "device"), "--device"),
}


def parse_task(text: str) -> tuple[str, list[str]]:
    """Split `mine=train.tsv,dev.tsv` into ("mine", ["train.tsv", "dev.tsv"]); a file left out between commas is "".

    Raises:
        MtlError: no name, no file behind `=`, or more than three files.
    """
    name, equals, listed = text.partition("=")
    # A comma at the end names no further file.
    files = [file.strip() for file in listed.rstrip(", ").split(",")] if equals else []
    if (equals and not any(files)) or len(files) > 3 or not name:
        raise MtlError(f"--task {text}: expected NAME, or NAME=TRAIN[,DEV[,TEST]]")
    return name, files


@dataclass(frozen=True)
class RunOptions:
    """Hold the options of a training run as typer parses them, the same for `mtl train` and `mtl check`."""

    task: Tasks = None
    auxiliary: Auxiliary = None
    config: ConfigFile = None
    data: Data = None
    sample: Sample = False
    init: Init = None
    encoder: Encoder = None
    pooling: Pooling = None
    max_length: MaxLength = None
    scheduler: SchedulerName = None
    balancer: BalancerName = None
    regularizer: Regularizers = None
    tracker: Trackers = None
    epochs: Epochs = None
    steps: Steps = None
    batch_size: BatchSize = None
    micro_batches: MicroBatches = None
    lr: Lr = None
    head_lr: HeadLr = None
    seed: Seed = None
    seeds: Seeds = None
    select_by: SelectBy = None
    patience: Patience = None
    precision: Precision = None
    device: Device = None
    on_bad_row: OnBadRow = None
    sets: Set = None
    output: Output = None
    resume: Resume = False
    overwrite: Overwrite = False
    quiet: Quiet = False
    debug: Debug = False

    @property
    def trains_seeds(self) -> bool:
        """Return whether the command trains one run per seed, with --seeds or by resuming a folder of runs.

        Raises:
            MtlError: a single seed is set as well.
        """
        # Imported in the functions of this module, so that `mtl --help` stays fast.
        from mtlcli.runs.seeds import is_group

        if self.seeds is None and not (self.resume and self.output is not None and is_group(self.output)):
            return False
        if self.seed is not None or any(text.partition("=")[0].strip() == "training.seed" for text in self.sets or ()):
            raise MtlError("--seeds sets the seed of each run: remove --seed and training.seed")
        return True

    def configure(self, stored: "Layer | None" = None, resumed: "Layer | None" = None) -> "Config":
        """Resolve the configuration: recipe < flags < --set.

        Args:
            stored: the configuration in the folder of a resumed run, the lowest layer. If a recipe is given again, it replaces
                this layer and is compared with the stored configuration as a whole.
            resumed: the same if that run has a checkpoint or is finished.

        Raises:
            MtlError: all errors, each with the file and line or the flag.
        """
        from mtlcli.runs.configuration import resolve_run

        only, layers = self._layers(stored)
        return resolve_run([stored, *layers] if stored is not None and self.config is None else layers, only, resumed)

    def _layers(self, stored: "Layer | None") -> "tuple[list[str] | None, list[Layer]]":
        """Return the tasks named by --task, if any, and the layers of recipe, flags and --set."""
        from mtlcli.config.layers import Layer, parse_assignment, read_recipe
        from mtlcli.config.locations import suggest_key
        from mtlcli.config.schema import Config
        from mtlcli.config.shorthand import absolute_paths, plain_tasks

        layers = []
        if self.config is not None:
            layers.append(absolute_paths(read_recipe(self.config), self.config.absolute().parent))
        flags, only = self._flag_layer()
        layers.append(absolute_paths(flags, Path.cwd()))
        # A layer for each, because merging lets a later one change an item of a list that an earlier one sets.
        for text in self.sets or ():
            path, value = parse_assignment(text)
            if path[0] not in Config.model_fields:
                raise MtlError(f"--set {text}: unknown key{suggest_key(path[:1])}")
            layer = Layer()
            layer.put(path, value, f"--set {'.'.join(path)}")
            layers.append(absolute_paths(layer, Path.cwd()))
        if self.on_bad_row is not None or self.auxiliary:
            # Both are keys of tasks, which are only known once all layers are read.
            known_layers = [stored, *layers] if stored is not None and self.config is None else layers
            for layer in known_layers:
                plain_tasks(layer)
            names = only or list(
                dict.fromkeys(name for layer in known_layers for name in layer.values.get("tasks") or {})
            )
            for name in names if self.on_bad_row is not None else ():
                # `flags` is one of `layers` already and changes in place, so --set still takes precedence.
                flags.put(("tasks", name, "on_bad_row"), self.on_bad_row, "--on-bad-row")
            layers.append(self._auxiliary_layer(names))
        return only or None, layers

    def _auxiliary_layer(self, names: list[str]) -> "Layer":
        """Return the layer of --auxiliary. Raise MtlError for a task that is not one of these names."""
        from mtlcli.config.layers import Layer

        layer = Layer()
        for name in self.auxiliary or ():
            if name not in names:
                raise MtlError(f"--auxiliary {name}: the run has no task of this name{suggest(name, names)}")
            layer.put(("tasks", name, "auxiliary"), True, f"--auxiliary {name}")
        return layer

    def _flag_layer(self) -> "tuple[Layer, list[str]]":
        from mtlcli.config.layers import Layer
        from mtlcli.config.schema import TASK_FILES
        from mtlcli.config.shorthand import split_methods
        from mtlcli.registry import FAMILIES

        layer = Layer()
        names: list[str] = []
        for text in self.task or ():
            name, files = parse_task(text)
            if name in names:
                raise MtlError(f"--task {text}: task {name} is listed twice")
            names.append(name)
            # Also without files: a task that no recipe defines needs a section, and errors about it need a place.
            layer.put(("tasks", name), {}, f"--task {name}")
            for key, file in zip(TASK_FILES, files, strict=False):
                if file:
                    layer.put(("tasks", name, key), file, f"--task {name}")
        for flag, names_given in (("--regularizer", self.regularizer or []), ("--tracker", self.tracker or [])):
            if repeated := [name for name in names_given if names_given.count(name) > 1]:
                raise MtlError(
                    f"{flag} {repeated[0]}: listed twice; give it once, or twice in a recipe with different options"
                )
        for field, (path, flag) in FLAGS.items():
            value = getattr(self, field)
            # A flag that was not given must not override the recipe.
            if value is not None:
                layer.put(path, value, flag)
        if self.sample:
            layer.put(("sample",), True, "--sample")
        if self.balancer is not None:
            methods = split_methods(self.balancer, "--balancer")
            layer.put(("balancer", "name"), methods.get("balancer") or FAMILIES["balancers"].default, "--balancer")
            # Null if none is named, so that the flag also removes the recipe's gradient regularizer.
            regularizer = methods.get("gradient_regularizer")
            layer.put(("gradient_regularizer",), regularizer and {"name": regularizer}, "--balancer")
        return layer, names


def takes_run_options(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of RunOptions, less those in `without`, and pass them as its first argument.

    typer reads the parameters from the signature that this sets: the shared options, then the command's own, then `--quiet` and
    `--debug`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        shared = [
            parameter for name, parameter in inspect.signature(RunOptions).parameters.items() if name not in without
        ]
        # Without the first parameter, which receives the RunOptions.
        extra = list(inspect.signature(command).parameters.values())[1:]
        last = [parameter for parameter in shared if parameter.name in ("quiet", "debug")]
        parameters = [*(parameter for parameter in shared if parameter not in last), *extra, *last]
        names = {parameter.name for parameter in shared}

        @functools.wraps(command)
        def call(**values: Any) -> None:
            run = RunOptions(**{name: value for name, value in values.items() if name in names})
            command(run, **{name: value for name, value in values.items() if name not in names})

        # typer reads both; `functools.wraps` copied the command's.
        call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            # Among keyword-only parameters, one without a default may follow one with a default.
            [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        )
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return decorate
