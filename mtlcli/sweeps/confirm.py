"""Train the best trials and the recipe again with other seeds: the dev rows that chose the winner overrate it."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.config.schema import Config
from mtlcli.runs.seeds import Group, write_group
from mtlcli.sweeps.results import Sweep
from mtlcli.sweeps.space import Space
from mtlcli.training.events import Event, Finished
from mtlcli.training.run import open_or_restart, run_training

FIRST_SEED = 9000
"""The first seed of confirmations, which no trial uses."""
FOLDER = "confirm"
DEFAULT = "recipe"


@dataclass(frozen=True)
class Confirmed:
    """Folders of seeds to compare: the recipe, and the best trials by the name of their folder."""

    recipe: Path
    trials: tuple[Path, ...]


def confirm(
    sweep: Sweep,
    base: Config,
    space: Space,
    *,
    seeds: int,
    best: int,
    command: str = "",
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event | Confirmed]:
    """Train the recipe and the best trials on new seeds; the last event names their folders, none if stopped."""
    configs = {DEFAULT: base}
    for trial in sweep.front() if len(sweep.objectives) > 1 else sweep.done:
        config = space.config(base, trial.values, trial.place)
        # The recipe can itself be a trial. It is already in `configs`, beside up to `best` others.
        if config.plain() != base.plain() and len(configs) <= best:
            configs[trial.place.rpartition("/")[2]] = config
    numbers = tuple(range(FIRST_SEED, FIRST_SEED + seeds))
    for name, config in configs.items():
        group = Group(sweep.folder / FOLDER / name, numbers)
        for seed in numbers:
            values = deepcopy(config.plain())
            values["training"]["seed"] = seed
            end: Finished | None = None
            for event in run_training(
                open_or_restart(resolve([Layer(values)]), group.run(seed)), command=command, stop=stop
            ):
                end = event if isinstance(event, Finished) else end
                yield event
            if end is None or end.why == "interrupted":
                return
        # After its last seed, so that an unfinished group is not compared.
        write_group(group)
    places = [sweep.folder / FOLDER / name for name in configs]
    yield Confirmed(places[0], tuple(places[1:]))
