"""merge.json: what a merged run was made of."""

from dataclasses import asdict, dataclass
from pathlib import Path

from mtlcli.files import read_sealed_as, write_sealed
from mtlcli.runs.names import MERGE

FORMAT = 2


@dataclass(frozen=True)
class MergedSource:
    """A run that was merged: its folder relative to the merged run, the sha256 of its run.json, its weight, and the heads taken."""

    folder: str
    sha256: str
    weight: float
    heads: tuple[str, ...]


@dataclass(frozen=True)
class MergeTrial:
    """Coefficients that were tried, and the score on dev; `scaling` is None where the method has none."""

    weights: tuple[float, ...]
    scaling: float | None
    score: float


@dataclass(frozen=True)
class MergeRecord:
    """How a run was merged.

    Attributes:
        start: the encoder that all runs started from.
        start_sha256: digest of its weights.
        options: options of the method by name.
        trials: what was tried on dev; empty where the coefficients were given.
    """

    method: str
    start: str
    start_sha256: str
    scaling: float | None
    options: dict[str, float]
    select_by: str
    score: float | None
    runs: tuple[MergedSource, ...]
    trials: tuple[MergeTrial, ...] = ()


def write_merge_record(folder: Path, record: MergeRecord) -> None:
    """Write merge.json. Raise MtlError where it cannot be written."""
    write_sealed(folder / MERGE, asdict(record), FORMAT)


def read_merge_record(folder: Path) -> MergeRecord | None:
    """Return how a run was merged, None for one that was not. Raise MtlError, one line, where the file is damaged."""
    if not (folder / MERGE).is_file():
        return None
    return read_sealed_as(MergeRecord, folder / MERGE, FORMAT, "merge the runs again: mtl merge RUN... --overwrite")
