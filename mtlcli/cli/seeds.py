"""`mtl train --seeds`: one configuration, one run for each seed."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mtlcli.cli import session
from mtlcli.cli.console import err, say, show_plan, table
from mtlcli.cli.interrupts import Interrupts
from mtlcli.errors import MtlError
from mtlcli.runs.folder import is_finished
from mtlcli.runs.seeds import LIST, Group, open_group, parse_seeds, spreads, write_group

if TYPE_CHECKING:
    from mtlcli.config.layers import Layer
    from mtlcli.config.schema import Config
    from mtlcli.runs.checkpoint import Checkpoint

Configure = Callable[["Layer | None", "Layer | None"], "Config"]
"""(configuration to start from, that of a run that goes on) -> the configuration of the command."""


def is_group(folder: Path) -> bool:
    """Whether a folder holds runs with different seeds."""
    return (folder / LIST).is_file()


def train_seeds(
    seeds: str | None,
    output: Path | None,
    configure: Configure,
    *,
    resume: bool,
    overwrite: bool,
    again: bool,
    quiet: bool,
) -> None:
    """Trains what is left, then shows every metric over the seeds. With `again`, runs that go on start from what they were."""
    wanted = parse_seeds(seeds) if seeds is not None else ()
    if output is None:
        if resume:
            raise MtlError("--resume: which runs? name their folder with --output")
        output = session.default_output(configure(None, None))
    group, before = open_group(output, wanted, resume=resume, overwrite=overwrite)
    from mtlcli.runs.folder import open_folder

    checkpoints = {seed: open_folder(group.run(seed), resume=resume, overwrite=overwrite) for seed in group.seeds}
    started = False
    try:
        for number, seed in enumerate(group.seeds, start=1):
            found = checkpoints[seed]
            chosen, done = _chosen(group, seed, found, configure, resume=resume, again=again, quiet=quiet)
            if done:
                _say(f"seed {seed}: finished before, in {group.run(seed)}", quiet)
                continue
            start = time.monotonic()
            prepared = session.prepare_run(chosen, found, quiet)
            if not started:  # nothing is written or removed before the first run can begin
                if before is not None and overwrite:
                    for run in before.runs:
                        shutil.rmtree(run, ignore_errors=True)
                write_group(group)
                if not quiet:
                    show_plan(prepared.plan)
                started = True
            _say(f"seed {seed}, run {number} of {len(group.seeds)}: {group.run(seed)}", quiet)
            with Interrupts() as interrupts:
                session.run(prepared, group.run(seed), found, start, interrupts.asked, quiet, output)
                if interrupts.signal is not None:
                    if is_finished(group.run(seed)):  # it was the last step, so the run itself has nothing to say
                        say(f"stopped after seed {seed}; go on with: mtl train --resume --output {output}")
                    raise typer.Exit(128 + interrupts.signal)
            del prepared  # a device may not hold two models
    except KeyboardInterrupt:  # while data or model was read
        if started:
            _say(f"go on with: mtl train --resume --output {output}", quiet)
        raise
    write_group(group)
    _show(group)


def _chosen(
    group: Group, seed: int, found: "Checkpoint | None", configure: Configure, *, resume: bool, again: bool, quiet: bool
) -> "tuple[Config, bool]":
    """The configuration of one run, and whether it is finished and nothing in that has changed. A run that is new takes what
    the command leaves out from the first that is there."""
    from mtlcli.runs.folder import stored_layer

    folder = group.run(seed)
    stored = {run: layer for run in (folder, *group.runs) if resume and (layer := stored_layer(run)) is not None}
    own, done = stored.get(folder), is_finished(folder) and resume
    known = own is not None and (done or found is not None)
    chosen = configure(next(iter(stored.values()), None) if again else None, own if known else None)
    chosen = chosen.model_copy(update={"training": chosen.training.model_copy(update={"seed": seed})})
    if own is None or not known:
        return chosen, False
    changed = session.tell_changes(own, chosen, folder, quiet)
    return chosen, done and not changed


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        say(text, err)


def _show(group: Group) -> None:
    """Mean and spread of every metric."""
    found = spreads(group.runs)
    rows: list[Sequence[str]] = []
    for task, splits in found.items():
        for split, metrics in splits.items():
            for index, (metric, one) in enumerate(metrics.items()):
                first = (task, split) if index == 0 else ("", "")
                lowest, highest = min(one.values), max(one.values)
                rows.append(
                    (*first, metric, f"{one.mean:.4f}", f"{one.deviation:.4f}", f"{lowest:.4f} to {highest:.4f}")
                )
    names = ", ".join(map(str, group.seeds))
    columns = [("task", ""), ("split", ""), ("metric", ""), ("mean", "right"), ("deviation", "right"), ("range", "")]
    if rows:
        table(f"{group.folder}: {len(group.seeds)} seeds ({names})", columns, rows)
    say(f"saved in {group.folder}; against others: mtl compare OTHER {group.folder}")
