"""Implement `mtl check`."""

from typing import TYPE_CHECKING, Annotated

import typer

from mtlcli.cli import options
from mtlcli.cli.console import err, say, show_plan, size, table
from mtlcli.cli.options import RunOptions

if TYPE_CHECKING:
    from mtlcli.training.dry_run import DryRunResult
    from mtlcli.training.run import OpenedRun
    from mtlcli.training.seeds import OpenedGroup

STRICT_EXIT = 1
"""Exit code of `--strict` with warnings; errors exit with 2, as in every command."""


@options.takes_run_options()
def check(
    run: RunOptions,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 1 if there are warnings")] = False,
) -> None:
    """Find the problems of a run before training starts.

    Takes the arguments of mtl train and writes nothing. Reads all rows, prints the mixing plan, runs one forward and backward
    pass per task on its longest batch, and reports whether the output folder can be used. Errors exit with code 2.

    Example: mtl check --task sst --task quora --balancer pcgrad --sample
    """
    # Before the imports of torch, so that a wrong combination of flags is reported at once.
    trains_seeds = run.trains_seeds
    from mtlcli.trackers.session import make_trackers
    from mtlcli.training.dry_run import dry_run
    from mtlcli.training.run import open_training, set_up_run
    from mtlcli.training.seeds import open_seeds

    group: OpenedGroup | None = None
    if trains_seeds:
        group = open_seeds(run.seeds, run.output, run.configure, resume=run.resume, overwrite=run.overwrite)
        # One setup is enough: the runs differ in their seed only.
        opened = next((seed_run for seed_run in group.runs if not seed_run.is_complete), group.runs[0])
    else:
        opened = open_training(run.configure, run.output, resume=run.resume, overwrite=run.overwrite)
    # Only to find a missing package or a wrong option; a tracker starts with its run.
    make_trackers(opened.config.trackers)
    # Without a token cache, because this command writes nothing.
    prepared = set_up_run(opened, lambda line: None if run.quiet else say(line, err), cache=False)
    results = dry_run(prepared)
    if not run.quiet:
        for note in opened.notes:
            say(f"note: {note}")
        # Warnings follow at the end, also with --quiet. No marker file, because this command writes nothing.
        show_plan(prepared.plan, warnings=False, remember=False)
        _show_batches(results)
        for loaded in prepared.tasks:
            for line in loaded.target.check(loaded.splits["train"].gold):
                say(f"{loaded.task.name}: {line}")
        if run.output is not None:
            say(_seeds_output(group) if group is not None else _output(opened, overwrite=run.overwrite))
    warnings = prepared.plan.warnings
    for warning in warnings:
        say(f"warning: {warning}", err)
    if not run.quiet:
        say(f"{len(warnings)} warning{'' if len(warnings) == 1 else 's'}" if warnings else "OK: no problems found")
    if strict and warnings:
        raise typer.Exit(STRICT_EXIT)


def _output(opened: "OpenedRun", *, overwrite: bool) -> str:
    """Describe what training would do to the output folder."""
    folder = opened.folder
    if overwrite and folder.is_dir() and any(folder.iterdir()):
        return f"output: {folder} would be replaced"
    if opened.is_complete:
        return f"output: {folder} is already finished"
    if opened.checkpoint is not None:
        return f"output: {folder} would be resumed after step {opened.first_step}"
    return f"output: {folder} would be created"


def _seeds_output(group: "OpenedGroup") -> str:
    """Describe how many runs of a group remain to be trained."""
    finished = sum(run.is_complete for run in group.runs)
    replaced = "; its runs would be replaced" if group.replaced is not None else ""
    return f"output: {group.group.folder}: {len(group.runs)} seeds, {finished} finished, {len(group.runs) - finished} to train{replaced}"


def _show_batches(results: "list[DryRunResult]") -> None:
    columns = [
        ("longest batch", ""),
        *((name, "right") for name in ("texts", "tokens each", "loss", "seconds", "memory")),
    ]
    rows = [
        (result.task, f"{result.texts}", f"{result.length}", f"{result.loss:.3f}", f"{result.seconds:.2f}", size(result.peak_bytes))
        for result in results
    ]  # fmt: skip
    table("", columns, rows)
