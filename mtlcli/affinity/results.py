"""The files of an affinity folder: affinity.jsonl, a line for each finished unit, and affinity.json, the summary made of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtlcli.affinity.labels import LabelStatistics
from mtlcli.errors import MtlError
from mtlcli.files import cannot_write, read_sealed_as, write_sealed, write_whole

UNITS, SUMMARY, PAGE = "affinity.jsonl", "affinity.json", "affinity.html"
FORMAT = 1
MOST_CHANGES = 4
"""Changed settings that an error names."""


@dataclass(frozen=True)
class Cell:
    """Hold what task i does for task j by one measure.

    Attributes:
        value: None where there is none; `why` says the reason.
        low, high: the 95 % interval; None where there is none.
        n: number of repetitions behind the value: batches, steps, seeds, words.
        details: further numbers by name.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    why: str = ""
    details: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """Hold one measure for all pairs.

    Attributes:
        name: short name, unique.
        title: what a value says, with its unit.
        cells: row i, column j: what task i does for task j; None on the diagonal.
        symmetric: True if both directions of a pair have the same value.
        reliability: how well the order of the pairs repeats in other halves of the repetitions, from 0 to 1; None if not known.
    """

    name: str
    title: str
    cells: list[list[Cell | None]]
    symmetric: bool = False
    reliability: float | None = None

    def values(self) -> np.ndarray:
        """Return the values (k, k), NaN where there is none."""
        return np.array(
            [[np.nan if cell is None or cell.value is None else cell.value for cell in row] for row in self.cells]
        )

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends of the intervals (k, k) each, NaN where there is none."""
        low, high = (
            np.array(
                [
                    [np.nan if cell is None or getattr(cell, end) is None else getattr(cell, end) for cell in row]
                    for row in self.cells
                ]
            )
            for end in ("low", "high")
        )
        return low, high


@dataclass(frozen=True)
class Proposal:
    """Hold the proposed groups, by task name.

    Attributes:
        source: the measure that was used.
        models: largest number of groups.
        groups, served: members of each group, and those that count in it.
        value: sum over the tasks of what their group does for them, in units of the measure.
        one_model: the same for one model of all tasks; single-task training has 0.
        share: how often drawn affinities give the same groups.
        together: how often each pair stands together (k, k).
        draws: number of drawn affinities.
        confirmed: mean gain over the tasks in percent, of the groups and of one model, trained again with other seeds; empty without.
    """

    source: str
    models: int
    groups: list[list[str]]
    served: list[list[str]]
    value: float
    one_model: float
    share: float | None = None
    together: list[list[float]] | None = None
    draws: int = 0
    confirmed: dict[str, Cell] = field(default_factory=dict)


@dataclass(frozen=True)
class PredictionRow:
    """Hold how well a measure predicts the gains: value, low and high of each correlation, see `prediction.Prediction`."""

    measure: str
    rho: list[float | None]
    within: list[float | None]
    over_tasks: list[float | None] | None
    pairs: int
    ceiling: float | None


@dataclass(frozen=True)
class Affinity:
    """Hold the content of affinity.json. Matrices are in the order of `tasks`."""

    tasks: list[str]
    settings: dict[str, Any]
    labels: dict[str, LabelStatistics]
    measures: list[Measure]
    proposal: Proposal | None
    predictions: list[PredictionRow]
    verdict: str
    gain_reliability: list[float] | None
    heads: dict[str, dict[str, float | bool | None]]
    directions: dict[str, dict[str, float | None]]
    curves: dict[str, dict[str, list[list[float]]]]
    leaks: list[str]
    warnings: list[str]
    cost: dict[str, float]

    def measure(self, name: str) -> Measure | None:
        """Return a measure by name; None if it was not made."""
        return next((measure for measure in self.measures if measure.name == name), None)


def write_affinity(affinity: Affinity, folder: Path) -> None:
    """Write affinity.json. Raise MtlError if it cannot be written."""
    write_sealed(folder / SUMMARY, asdict(affinity), FORMAT)


def read_affinity(path: Path) -> Affinity:
    """Return the summary of a folder or file. Raise MtlError if it is missing or damaged."""
    path = path / SUMMARY if path.is_dir() else path
    if not path.exists():
        raise MtlError(f"{path}: not found; expected a {SUMMARY} written by `mtl affinity --output`")
    return read_sealed_as(Affinity, path, FORMAT, "write it again: mtl affinity with the same options and --output")


class Units:
    """The finished units of an affinity folder. The first line holds the settings, which later calls must repeat."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        compare: Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]] = lambda before, now: (
            [] if before == now else ["settings"]
        ),
    ) -> None:
        """Open the file, or start it.

        Args:
            compare: returns what differs between the stored settings and these, a clause each.

        Raises:
            MtlError: the file was made with other settings, or it cannot be read or written.
        """
        self.path = folder / UNITS
        self._lines: dict[tuple[str, str], dict[str, Any]] = {}
        # As JSON returns it, so that tuples equal the lists that are stored.
        plain = json.loads(json.dumps(dict(settings)))
        texts = self._read()
        lines = [line for line in map(_parsed, texts) if line is not None]
        if lines and lines[0].get("measure") == "settings":
            if changed := compare(lines[0]["settings"], plain):
                raise MtlError(
                    f"--output: {folder} was made with other settings: {'; '.join(changed[:MOST_CHANGES])}; give the old ones, "
                    "another --output, or --overwrite to replace it"
                )
            for line in lines[1:]:
                # The text of a unit is its key, because a list cannot be one. A later line replaces an earlier one.
                self._lines[line["measure"], json.dumps(line["unit"])] = line
            # An unfinished last line is what a kill leaves; appending to it would damage the next one.
            if len(lines) < len(texts):
                write_whole(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        elif texts:
            raise MtlError(
                f"{self.path}: damaged (no settings in line 1); restore a copy, or start over with --overwrite"
            )
        else:
            write_whole(self.path, json.dumps({"measure": "settings", "settings": plain}) + "\n")

    def _read(self) -> list[str]:
        try:
            # With the line ends, without which `_parsed` could not recognize an unfinished line.
            return self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise MtlError(
                f"{self.path}: cannot be read ({error}); restore a copy, or start over with --overwrite"
            ) from error

    def get(self, measure: str, unit: object) -> dict[str, Any] | None:
        """Return the line of a finished unit; None if it is not finished."""
        return self._lines.get((measure, json.dumps(unit)))

    def of(self, measure: str) -> list[dict[str, Any]]:
        """Return the finished units of a measure, in the order in which they ended."""
        return [line for (name, _), line in self._lines.items() if name == measure]

    def add(self, measure: str, unit: object, **values: Any) -> None:
        """Write the line of a finished unit. Raise MtlError if it cannot be written."""
        # As a later call reads it, so that a summary does not depend on which call measured a unit.
        line = json.loads(json.dumps({"measure": measure, "unit": unit, **values}))
        try:
            # Not atomic: an unfinished line is left out by `_parsed`, and its unit is measured again.
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._lines[measure, json.dumps(line["unit"])] = line


def _parsed(text: str) -> dict[str, Any] | None:
    if not text.endswith("\n"):
        return None
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and "measure" in line else None


def symmetric(names: Sequence[str], cells: Mapping[tuple[int, int], Cell]) -> list[list[Cell | None]]:
    """Return cells by (i, j), each given for one direction at least, as a matrix."""
    k = len(names)
    return [
        [None if i == j else cells.get((i, j)) or cells.get((j, i)) or Cell(None, why="not measured") for j in range(k)]
        for i in range(k)
    ]


def directed(names: Sequence[str], cells: Mapping[tuple[int, int], Cell]) -> list[list[Cell | None]]:
    """Return cells by (source, receiver) as a matrix."""
    k = len(names)
    return [
        [None if i == j else cells.get((i, j)) or Cell(None, why="not measured") for j in range(k)] for i in range(k)
    ]
