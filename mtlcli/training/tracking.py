"""Pass the events of a run on to its trackers."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, suppress

from mtlcli.config.schema import Config
from mtlcli.runs.names import LOG, METRICS
from mtlcli.trackers.base import Tracker
from mtlcli.trackers.session import RunTrackers
from mtlcli.training.events import Evaluated, Event, Finished, Notice, Started, Stepped
from mtlcli.training.log import log_line


def tracked(
    events: Generator[Event, None, None], config: Config, trackers: Mapping[str, Tracker]
) -> Generator[Event, None, None]:
    """Yield the events of a run, and a warning for each tracker that fails; the run itself never depends on one.

    Args:
        events: the events of `training.loop.train`.
        config: the configuration of the run.
        trackers: the trackers by label, not yet started.
    """
    session: RunTrackers | None = None
    why: str | None = "failed"
    try:
        with closing(events):
            for event in events:
                match event:
                    case Started() if trackers:
                        session = RunTrackers(event.folder, config, event.plan, trackers, event.plan.first_step)
                    case Stepped() | Evaluated() if session is not None:
                        session.line(event.line)
                    case Finished() if session is not None:
                        session.end(event.why, event.step, event.results)
                        why = None
                yield event
                if session is not None:
                    yield from _warnings(session)
    except (GeneratorExit, KeyboardInterrupt):
        # `why` is None if the run had finished before the generator was closed.
        why = why and "interrupted"
        raise
    finally:
        # After the last event, so that the results are shown, and the files closed, before the run waits for its trackers.
        if session is not None:
            if why is not None:
                session.end(why)
            session.wait()
            warnings = list(_warnings(session, at_end=True))
    if session is not None:
        yield from warnings


def _warnings(session: RunTrackers, *, at_end: bool = False) -> Iterator[Notice]:
    for label, problem in session.problems(at_end=at_end):
        text = (
            f"tracker {label}: {problem}; it gets no more of this run, which {METRICS} has in full; to send it again: "
            f"mtl track {session.folder}"
        )
        with suppress(OSError):  # on a full disk, training itself says so
            log_line(session.folder / LOG, f"warning: {text}")
        yield Notice(text, is_warning=True)
