"""`mtl merge`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mtlcli.cli import options
from mtlcli.cli.console import err, say, show_results, table
from mtlcli.errors import MtlError, one_of, suggest

if TYPE_CHECKING:
    from mtlcli.runs.merge_record import MergeRecord


def merge(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN", help="The run folders, or folders of seeds (--seeds); all started from one encoder."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the merged run.")],
    method: Annotated[str, typer.Option(help="average, task-arithmetic, ties, dare or fisher.")] = "average",
    weights: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="Weight of each run, in their order. [default: chosen on dev]"),
    ] = None,
    scaling: Annotated[
        float | None,
        typer.Option(help="Factor of the task vectors, for task-arithmetic, ties and dare. [default: chosen on dev]"),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(help="For ties: share of each task vector to keep, above 0 and up to 1. [default: 0.2]"),
    ] = None,
    drop_rate: Annotated[
        float | None,
        typer.Option(help="For dare: share of each task vector to drop, from 0 to below 1. [default: 0.1]"),
    ] = None,
    fisher_rows: Annotated[
        int | None, typer.Option(min=1, help="For fisher: most training rows of each task to use. [default: 256]")
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=RUN",
            help="Keep this run's head of a task that several have. Repeat it. [default: the first run's]",
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="ENCODER",
            help="Encoder that all runs started from: a run, a model folder or a Hub id. [default: as the runs record it]",
        ),
    ] = None,
    select_by: Annotated[
        str, typer.Option(help="Score on dev that chooses: mean, normalized-mean or TASK.METRIC.")
    ] = "mean",
    seed: Annotated[
        int | None, typer.Option(help="For dare and fisher: random seed of values, rows and labels. [default: 42]")
    ] = None,
    device: options.Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --output.")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Merge the encoders of several runs into one run with all their heads.

    Nothing is trained. Weights and scaling are chosen on dev unless they are given.

    Example: mtl merge runs/sst runs/sts --method ties --output runs/merged
    """
    # Before the imports, so that malformed values are reported at once.
    numbers = _numbers(weights)
    heads = _heads(head or [])
    from mtlcli.cli.session import command_line
    from mtlcli.merging.merge import MergeSettings, merge_runs
    from mtlcli.merging.merger import METHODS, OPTIONS_OF, Options

    # Not `method in METHODS`, after which a type checker would still see any text.
    known = next((name for name in METHODS if name == method), None)
    if known is None:
        raise MtlError(f'--method: found "{method}"; expected one of {one_of(METHODS)}{suggest(method, METHODS)}')
    values = {"density": density, "drop_rate": drop_rate, "fisher_rows": fisher_rows, "seed": seed}
    # Options that were not given keep the defaults of `Options`.
    given: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    if errors := [
        f"--{name.replace('_', '-')}: {known} has no such option; it is for "
        f"{one_of(other for other in METHODS if name in OPTIONS_OF[other])}"
        for name in given
        if name not in OPTIONS_OF[known]
    ]:
        raise MtlError(*errors)
    merged = merge_runs(
        runs, output,
        MergeSettings(known, numbers, scaling, Options(**given), heads, start, select_by, device or "auto"),
        overwrite=overwrite, command=command_line(), tell=(lambda _: None) if quiet else lambda text: say(text, err),
    )  # fmt: skip
    if not quiet:
        for note in merged.notes:
            say(f"note: {note}", err)
        _show(merged.record)
    show_results(merged.results, f"{output}")
    if not quiet:
        say(f"saved in {output}")


def _numbers(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise MtlError(f"--weights {text}: expected numbers with commas between them, such as 0.7,0.3") from None


def _heads(texts: list[str]) -> dict[str, Path]:
    """Parse TASK=RUN.

    Raises:
        MtlError: one line for each text of another form, and for a task given twice.
    """
    heads: dict[str, Path] = {}
    errors = []
    for text in texts:
        name, _, folder = text.partition("=")
        if not name or not folder:
            errors.append(f"--head {text}: expected TASK=RUN, such as sst=runs/a")
        elif name in heads:
            errors.append(f"--head {text}: the task {name} is named twice; give one run")
        else:
            heads[name] = Path(folder)
    if errors:
        raise MtlError(*errors)
    return heads


def _show(record: "MergeRecord") -> None:
    rows = [(run.folder, f"{run.weight:g}", ", ".join(run.heads)) for run in record.runs]
    scaling = "" if record.scaling is None else f", scaling {record.scaling:g}"
    selection = f", the best of {len(record.trials)} on dev" if record.trials else ""
    table(f"{record.method}{scaling}{selection}", [("run", ""), ("weight", "right"), ("heads", "")], rows)
