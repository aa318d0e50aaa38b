"""The trials of a sweep as they are written to its folder, so that tables and pages need no storage."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mtlcli.errors import MtlError
from mtlcli.files import write_whole
from mtlcli.sweeps.space import in_words

SWEEP = "sweep.json"
TRIALS = "trials.json"
BEST = "best.yaml"
DONE, PRUNED, FAILED, RUNNING, WAITING = "done", "pruned", "failed", "running", "waiting"


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: number in the storage; a trial that another worker took over has a new one and the old `place`.
        place: folder of its run, relative to that of the sweep.
        state: done, pruned, failed, running or waiting.
        values: values by key of the space.
        scores: objectives, none unless done.
        curve: (evaluation, score) of its evaluations.
        metrics: metrics on dev by `TASK.METRIC`.
        error: why it failed.
    """

    number: int
    place: str
    state: str
    values: dict[str, Any]
    scores: tuple[float, ...] = ()
    curve: tuple[tuple[int, float], ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    worker: str = ""
    attempts: int = 1
    error: str = ""


@dataclass(frozen=True)
class Sweep:
    """What sweep.json says, and the trials."""

    folder: Path
    base: dict[str, Any]
    space: str
    keys: tuple[str, ...]
    objectives: tuple[str, ...]
    directions: tuple[str, ...]
    trials: tuple[Trial, ...]
    importance: dict[str, float]

    @property
    def done(self) -> list[Trial]:
        """Trials that were trained to the end, the best first; with several objectives by the first one."""
        done = [trial for trial in self.trials if trial.state == DONE]
        # A stable sort, so that the earliest of equal trials comes first.
        return sorted(done, key=lambda trial: -trial.scores[0] if self.directions[0] == "maximize" else trial.scores[0])

    def front(self) -> list[Trial]:
        """Return the trials that no other beats in every objective: one, the best, with one objective."""
        signs = [1 if direction == "maximize" else -1 for direction in self.directions]

        def beats(one: Trial, other: Trial) -> bool:
            pairs = [(sign * a, sign * b) for sign, a, b in zip(signs, one.scores, other.scores, strict=True)]
            return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

        done = self.done
        return [trial for trial in done if not any(beats(other, trial) for other in done)]


def write_description(folder: Path, values: Mapping[str, Any]) -> None:
    """Write sweep.json."""
    write_whole(folder / SWEEP, json.dumps(values, indent=1))


def write_trials(folder: Path, trials: Sequence[Trial], importance: Mapping[str, float]) -> None:
    """Write trials.json."""
    write_whole(
        folder / TRIALS,
        json.dumps({"trials": [asdict(trial) for trial in trials], "importance": dict(importance)}, indent=1),
    )


def read_sweep(folder: Path) -> Sweep:
    """Read the description and the trials of a sweep.

    Raises:
        MtlError: the folder holds no sweep, or a damaged one.
    """
    try:
        values = json.loads((folder / SWEEP).read_text(encoding="utf-8"))
        record = json.loads((folder / TRIALS).read_text(encoding="utf-8")) if (folder / TRIALS).is_file() else {}
        trials = tuple(
            Trial(**{**trial, "scores": tuple(trial["scores"]), "curve": tuple(map(tuple, trial["curve"]))})
            for trial in record.get("trials", [])
        )
        return Sweep(
            folder, values["base"], values["space"], tuple(values["keys"]), tuple(values["objectives"]), tuple(values["directions"]),
            trials, record.get("importance", {}),
        )  # fmt: skip
    except FileNotFoundError:
        raise MtlError(
            f"{folder}: not the folder of a sweep (no {SWEEP}); expected one that `mtl sweep` made"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise MtlError(f"{folder}: {SWEEP} or {TRIALS} is damaged ({error})") from error


def trial_folders(folder: Path) -> list[Path]:
    """Return the runs of the trials of a sweep that were trained to the end, the best first; none for any other folder."""
    return [folder / trial.place for trial in read_sweep(folder).done] if (folder / SWEEP).is_file() else []


def cells(sweep: Sweep, most: int | None = None) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Return columns (name, side to align to) and rows of a table: trials that are done, the best first, then the others."""
    names = list(sweep.objectives)
    columns = [
        ("trial", "left"),
        ("state", "left"),
        ("values", "left"),
        *((name, "right") for name in names),
        ("seconds", "right"),
    ]
    order = {DONE: 0, PRUNED: 1, RUNNING: 2, WAITING: 3, FAILED: 4}
    others = sorted(
        (trial for trial in sweep.trials if trial.state != DONE), key=lambda trial: (order[trial.state], trial.number)
    )
    rows = []
    for trial in [*sweep.done, *others][:most]:
        # A trial without a final score shows that of its last evaluation.
        last = [f"{trial.curve[-1][1]:.4f}"] if trial.curve and len(names) == 1 else ["-"] * len(names)
        scores = [f"{score:.4f}" for score in trial.scores] or last
        seconds = "-" if trial.seconds is None else f"{trial.seconds:.0f}"
        rows.append(
            [trial.place.rpartition("/")[2] or str(trial.number), trial.state, in_words(trial.values), *scores, seconds]
        )
    return columns, rows
