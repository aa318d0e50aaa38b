"""The contract of a tracker, which copies the curves of a run to another program, such as TensorBoard."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtlcli.errors import MtlError


@dataclass(frozen=True)
class TrackedRun:
    """Describe a run to its trackers.

    Attributes:
        folder: the run folder.
        storage: a folder inside it for the tracker's own files, which exists and is removed when the run is replaced.
        name: name of the run: that of its folder, with the names of the folders between it and its group's.
        group: name of the folder of seeds, or of the study, that the run is part of; empty for a single run.
        config: the configuration, by dotted key (`optimizer.lr`), as texts of at most 6,000 characters.
        id: what `start` returned in the earlier part of a resumed run; None for a new run.
        first_step: steps that the tracker has received in the earlier part of a resumed run, up to the checkpoint; 0 for a new
            run. It may have received some after the checkpoint too, which come again.
    """

    folder: Path
    storage: Path
    name: str
    group: str
    config: Mapping[str, str]
    id: str | None = None
    first_step: int = 0


class Tracker(ABC):
    """Receive the lines of a run's metrics.jsonl.

    Every method is called on one thread that the tracker has to itself, in the order of the run, so it may be slow. After the
    first exception, `SystemExit` included, no method is called again; the run continues and prints one warning. Nothing may be
    printed to standard output, which holds the results of the run.

    The constructor takes options alone. It raises MtlError for a package that is not installed (`require_package`), which is
    reported before data is read, and does nothing slow.

    Attributes:
        every: send only the steps that this number divides; evaluations are always sent. A slow tracker offers it as an option.
    """

    every: int = 1

    @abstractmethod
    def start(self, run: TrackedRun) -> str | None:
        """Begin to track a run, or continue it if `run.first_step` is above 0.

        Returns:
            The id with which a resumed run continues; None if the tracker needs none.
        """

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a step or an evaluation, all finite.

        Args:
            step: optimizer updates so far, from 1. A run that was killed and resumed sends the steps after its checkpoint again.
            values: numbers by name, such as `train/sst/loss`, `balancer/sst/weight`, `gradients/cosine/sst/sts`,
                `eval/sst/accuracy` and, at the end, `final/sst/dev/accuracy`.
        """

    # The methods below do nothing unless a tracker overrides them.

    def text(self, name: str, markdown: str) -> None:  # noqa: B027
        """Take a text in Markdown: the plan of the run as `plan`, and its recipe as `recipe`."""

    def files(self, paths: Sequence[Path]) -> None:  # noqa: B027
        """Take the small files of a finished run: its configuration, plan, record and results."""

    def finish(self, why: str) -> None:  # noqa: B027
        """Write everything that is still held, and end.

        Args:
            why: `finished`, `patience`, `interrupted` or `failed`.
        """


def require_package(package: str, install: str) -> None:
    """Check that a package is installed, without importing it.

    Args:
        package: the name under which it is imported.
        install: the arguments of pip that install it.

    Raises:
        MtlError: it is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise MtlError(f"the package {package} is not installed; install it with: pip install '{install}'")
