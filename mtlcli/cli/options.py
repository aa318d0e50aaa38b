"""Flags that several commands have, and how they become a layer of the configuration."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mtlcli.errors import MtlError

if TYPE_CHECKING:
    from mtlcli.config.layers import Layer
    from mtlcli.config.schema import Config

Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        "-t",
        metavar="NAME[=TRAIN[,DEV[,TEST]]]",
        help="A task of the run, with its own files if they are given. Repeat it.",
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="A recipe in YAML; flags win over it.")]
Data = Annotated[str | None, typer.Option(help="Folder with the files that the tasks expect.")]
Sample = Annotated[bool, typer.Option("--sample", help="Use the made-up corpus that comes with mtlcli.")]
Init = Annotated[
    str | None,
    typer.Option(
        metavar="RUN", help="Start from a finished run: its encoder, and its heads for tasks of the same name."
    ),
]
Encoder = Annotated[
    str | None, typer.Option(help="tiny, another installed encoder, a model folder, or a hub id. [default: tiny]")
]
Pooling = Annotated[str | None, typer.Option(help="cls, mean or max. [default: mean]")]
MaxLength = Annotated[int | None, typer.Option(help="Longest input in tokens. [default: 128]")]
SchedulerName = Annotated[
    str | None, typer.Option("--scheduler", help="Which tasks a step visits. [default: round-robin]")
]
BalancerName = Annotated[
    str | None,
    typer.Option(
        "--balancer", help="A loss balancer, a gradient regularizer, or both: uncertainty+pcgrad. [default: equal]"
    ),
]
Regularizers = Annotated[
    list[str] | None,
    typer.Option("--regularizer", metavar="NAME", help="An extra loss, or a pull on the weights. Repeat it."),
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the largest task. [default: 3]")]
Steps = Annotated[int | None, typer.Option(help="Optimizer updates, instead of epochs.")]
BatchSize = Annotated[int | None, typer.Option(help="Rows per micro-batch. [default: 16; tiny: 32]")]
MicroBatches = Annotated[int | None, typer.Option(help="Micro-batches per step and task. [default: 1]")]
Lr = Annotated[
    float | None, typer.Option(help="Peak learning rate of the encoder. [default: 5e-5, or what suits the encoder]")
]
HeadLr = Annotated[
    float | None, typer.Option(help="Peak learning rate of the heads. [default: 10 x --lr, or what suits the encoder]")
]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random. [default: 42]")]
Seeds = Annotated[
    str | None,
    typer.Option(metavar="N,N,...", help="Train once for each of these seeds, into OUTPUT/seed-N."),
]
SelectBy = Annotated[str | None, typer.Option(help="mean, normalized-mean, or TASK.METRIC. [default: mean]")]
Patience = Annotated[int | None, typer.Option(help="Stop after so many evaluations without a better one.")]
Precision = Annotated[str | None, typer.Option(help="auto, fp32 or bf16. [default: auto]")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps. [default: auto]")]
OnBadRow = Annotated[str | None, typer.Option(help="error or skip: what to do with rows that cannot be read.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Any key of the configuration: --set tasks.sts.head=cosine. Repeat it."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the result and errors.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

FLAGS: dict[str, tuple[tuple[str, ...], str]] = {
    "data": (("data",), "--data"),
    "init": (("init",), "--init"),
    "encoder": (("encoder", "name"), "--encoder"),
    "pooling": (("encoder", "pooling"), "--pooling"),
    "max_length": (("encoder", "max_length"), "--max-length"),
    "scheduler": (("scheduler", "name"), "--scheduler"),
    "regularizer": (("regularizers",), "--regularizer"),
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
    """`mine=train.tsv,dev.tsv` -> ("mine", ["train.tsv", "dev.tsv"]); one left out between commas is "".

    Raises MtlError for more than three files.
    """
    name, equals, files = text.partition("=")
    found = [file.strip() for file in files.rstrip(", ").split(",")] if equals else []
    if (equals and not any(found)) or len(found) > 3 or not name:
        raise MtlError(f"--task {text}: expected NAME, or NAME=TRAIN[,DEV[,TEST]]")
    return name, found


def configure(
    config: Path | None, tasks: list[str] | None, sample: bool, balancer: str | None, on_bad_row: str | None,
    sets: list[str] | None, flags: dict[str, Any], stored: "Layer | None" = None, resumed: "Layer | None" = None,
) -> "Config":  # fmt: skip
    """The configuration of a command: recipe < flags < --set. With `stored`, that of a run being resumed comes first;
    `resumed` is the same where there is a checkpoint, even if a recipe is given again."""
    from mtlcli.config.layers import Layer, parse_assignment, read_recipe
    from mtlcli.config.locations import suggest_key
    from mtlcli.config.resolve import resolve
    from mtlcli.config.schema import TASK_FILES, Config
    from mtlcli.config.shorthand import absolute_paths, plain_tasks, split_methods
    from mtlcli.runs.record import inherited_sections

    here = Path.cwd()
    layers = [stored] if stored is not None else []
    if config is not None:
        layers.append(absolute_paths(read_recipe(config), config.absolute().parent))
    flag_layer = Layer()
    only = []
    for text in tasks or ():
        name, files = parse_task(text)
        if name in only:
            raise MtlError(f"--task {text}: the task {name} is named twice")
        only.append(name)
        flag_layer.put(("tasks", name), {}, f"--task {name}")
        for key, file in zip(TASK_FILES, files, strict=False):
            if file:
                flag_layer.put(("tasks", name, key), file, f"--task {name}")
    if twice := [name for name in flags.get("regularizer") or () if flags["regularizer"].count(name) > 1]:
        raise MtlError(
            f"--regularizer {twice[0]}: named twice; name it once, or twice in a recipe with different options"
        )
    for key, value in flags.items():
        if value is not None:
            flag_layer.put(FLAGS[key][0], value, FLAGS[key][1])
    if sample:
        flag_layer.put(("sample",), True, "--sample")
    if balancer is not None:
        methods = split_methods(balancer, "--balancer")
        flag_layer.put(("balancer", "name"), methods.get("balancer") or "equal", "--balancer")
        chosen = methods.get("gradient_regularizer")
        flag_layer.put(("gradient_regularizer",), None if chosen is None else {"name": chosen}, "--balancer")
    layers.append(absolute_paths(flag_layer, here))
    for text in sets or ():
        path, value = parse_assignment(text)
        if path[0] not in Config.model_fields:
            raise MtlError(f"--set {text}: unknown key{suggest_key(path[:1])}")
        layer = Layer()
        layer.put(path, value, f"--set {'.'.join(path)}")
        layers.append(absolute_paths(layer, here))
    if on_bad_row is not None:
        for layer in layers:
            plain_tasks(layer)
        named = [name for layer in layers for name in (layer.values.get("tasks") or {})]
        for name in only or dict.fromkeys(named):
            flag_layer.put(("tasks", name, "on_bad_row"), on_bad_row, "--on-bad-row")
    if resumed is None:
        return resolve(layers, only or None, inherited_sections)
    # A resumed run has everything it took from the run named by `init`, which may be gone.
    sections = {key: resumed.values[key] for key in ("encoder", "architecture")}
    return resolve(layers, only or None, lambda _: sections)
