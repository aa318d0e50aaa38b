"""trackio, which keeps runs in a local database and shows them in a dashboard."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from mtlcli.trackers.base import TrackedRun, Tracker, require_package


class Trackio(Tracker):
    """Send a run to trackio's database, by default on this machine: `trackio show --project mtlcli` shows it.

    Needs trackio 0.43 or newer: `pip install 'mtlcli-trackers[trackio]'`. Its own variables choose another place: TRACKIO_DIR a
    folder, TRACKIO_SPACE_ID a Space, TRACKIO_SERVER_URL a server. A resumed run is continued by its name; both values of a step
    that was made twice stay in the database.
    """

    def __init__(
        self,
        *,
        project: Annotated[str, Field(min_length=1, description="project of the run in trackio")] = "mtlcli",
        every: Annotated[int, Field(ge=1, description="send every N-th step, and every evaluation")] = 1,
    ) -> None:
        require_package("trackio", "mtlcli-trackers[trackio]")
        self.project, self.every = project, every
        self._step = 0
        self._run: Any = None

    def start(self, run: TrackedRun) -> str | None:
        """Make a run of this name, or continue the newest of this name.

        Raises:
            RuntimeError: the newest run of this name is not the one to continue.
        """
        import trackio

        _silence()
        self._step = run.first_step
        self._run = trackio.init(
            self.project, name=run.name, group=run.group or None, config=dict(run.config),
            resume="must" if run.first_step else "never", embed=False, auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        identity = str(self._run.id)
        if run.first_step and identity != run.id:
            self._run.finish()
            raise RuntimeError(
                f'the project "{self.project}" has a newer run of the name "{run.name}" than the resumed one'
            )
        return identity

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Queue the numbers for trackio's own thread."""
        self._step = step
        self._run.log(dict(values), step=step)

    def text(self, name: str, markdown: str) -> None:
        """Log a report in Markdown."""
        import trackio

        self._run.log({name: trackio.Markdown(markdown)}, step=self._step)

    def finish(self, why: str) -> None:
        """Wait until trackio has stored everything, at most 30 seconds."""
        self._run.finish()


def _silence() -> None:
    """Keep trackio's messages off the screen: standard output holds the results of the run, standard error its progress."""
    import trackio.run
    import trackio.utils

    # Names of its own modules instead of sys.stdout, into which the main thread prints at the same time.
    for module in (trackio, trackio.run, trackio.utils):
        module.print = _print_nothing  # type: ignore[attr-defined]


def _print_nothing(*values: object, **options: object) -> None:
    pass
