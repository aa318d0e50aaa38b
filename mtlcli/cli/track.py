"""Implement `mtl track`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mtlcli.cli import options
from mtlcli.cli.console import say
from mtlcli.errors import MtlError


def track(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Run folders, folders of several seeds, studies or ensembles")
    ],
    tracker: Annotated[
        list[str] | None,
        typer.Option(
            "--tracker", metavar="NAME", help="Tracker to send the run to [default: those of the run]. Repeatable"
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME.KEY=VALUE", help="Set an option of a tracker. Repeatable"),
    ] = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Send runs to trackers such as TensorBoard after training, from the files in their folders.

    For runs that were trained without a tracker, or whose tracker failed. Each tracker gets a new run with every step once; a
    run that is not finished is sent as far as it is.

    Example: mtl track runs/demo --tracker tensorboard
    """
    from mtlcli.config.layers import parse_assignment
    from mtlcli.trackers.replay import replay, runs_in

    names = tracker or []
    if repeated := [name for name in names if names.count(name) > 1]:
        raise MtlError(f"--tracker {repeated[0]}: listed twice; give it once")
    values: dict[str, dict[str, Any]] = {}
    for text in sets or ():
        path, value = parse_assignment(text)
        if len(path) != 2:
            raise MtlError(
                f"--set {text}: expected NAME.KEY=VALUE with the name of a tracker, such as tensorboard.every=10"
            )
        values.setdefault(path[0], {})[path[1]] = value
    # All folders are checked before anything is sent.
    groups = [runs_in(folder) for folder in runs]
    errors = []
    for folders, group in groups:
        for folder in folders:
            replayed = replay(folder, names, values, group)
            # Reported at the end, so that a tracker that fails for one run does not keep back the others.
            errors += [f"{folder}: tracker {name}: {problem}" for name, problem in replayed.problems.items()]
            if not quiet and not replayed.problems:
                say(f"{folder}: sent {replayed.steps} steps and {replayed.evaluations} evaluations")
    if errors:
        raise MtlError(*errors)
