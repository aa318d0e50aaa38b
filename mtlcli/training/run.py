"""One training run: configuration, folder, comparison with what is stored, set-up and loop.

The commands `train`, `check` and `study`, `train --seeds` and the Python API all come through here. A run is opened first, which
is quick and finds most mistakes, and then trained, which yields events; nothing here prints.
"""

import os
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mtlcli.config.changes import check_unchanged, differences
from mtlcli.config.layers import Layer
from mtlcli.config.schema import Config
from mtlcli.data.tokens import cache_folder
from mtlcli.distributed.world import world
from mtlcli.errors import MtlError
from mtlcli.runs.checkpoint import Checkpoint
from mtlcli.runs.configuration import ConfigSource, layers_of, resolve_run, stored_config
from mtlcli.runs.folder import FolderState, RunFolder, claim, claim_new, inspect_folder, is_free
from mtlcli.runs.names import ENCODER
from mtlcli.trackers.session import make_trackers
from mtlcli.training.agreement import check_agreement
from mtlcli.training.events import Event, Notice, Ready
from mtlcli.training.loop import end_of_complete, train
from mtlcli.training.setup import TrainingRun, set_up
from mtlcli.training.tracking import tracked

Configure = Callable[[Layer | None, Layer | None], Config]
"""(configuration stored in the folder, the same if the run is resumed) -> the configuration of this run."""


@dataclass(frozen=True)
class OpenedRun:
    """A run whose folder was inspected and whose configuration is known; nothing is written yet.

    `checkpoint` is the one to resume from, `notes` say what differs from the stored configuration, and `is_complete` is True for a
    finished run with an unchanged configuration. `use` says how `run_training` claims the folder: by `name` it takes a free one
    of that name.
    """

    folder: Path
    config: Config
    checkpoint: Checkpoint | None = None
    notes: tuple[str, ...] = ()
    is_complete: bool = False
    use: Literal["new", "name", "resume", "overwrite"] = "new"

    @property
    def first_step(self) -> int:
        """Steps that were done before."""
        return 0 if self.checkpoint is None else self.checkpoint.step


def configure_from(source: ConfigSource | None, **sections: object) -> Configure:
    """Return the configuration of a run as a Python caller gives it.

    Without a `source`, a resumed run takes what `sections` leave out from its folder.
    """

    def configure(stored: Layer | None, resumed: Layer | None) -> Config:
        layers = [] if stored is None or source is not None else [stored]
        return resolve_run([*layers, *layers_of(source, sections)], resumed=resumed)

    return configure


def default_folder(config: Config) -> Path:
    """Return a folder named by the tasks, the method and the time."""
    method = config.gradient_regularizer.name if config.gradient_regularizer else config.balancer.name
    return Path("runs") / f"{'-'.join(config.tasks)}-{method.rpartition(':')[2]}-{time.strftime('%Y%m%d-%H%M%S')}"


def open_training(
    configure: Configure, output: Path | None, *, resume: bool = False, overwrite: bool = False, base: Layer | None = None
) -> OpenedRun:  # fmt: skip
    """Inspect the folder, resolve the configuration and compare it with the stored one.

    `base` takes the place of the stored configuration where a resumed folder has none.

    Raises:
        MtlError: the folder cannot be used this way, the configuration is wrong, or it differs in a key that must not change.
    """
    if output is None:
        if resume:
            raise MtlError("--resume: name the folder of the run with --output")
        config = configure(None, None)
        return OpenedRun(default_folder(config), config, notes=_notes_on_restarts(), use="name")
    if world().launch.restarts and not resume and world().same(lambda: _was_started(output, overwrite)):
        # The starter repeats the command after a process has ended, so the folder holds the run that it had started.
        resume, overwrite = True, False
    state = world().same(lambda: inspect_folder(output, resume=resume, overwrite=overwrite))
    stored, checkpoint = state.stored, state.checkpoint
    use: Literal["new", "resume", "overwrite"] = "resume" if resume else "overwrite" if overwrite else "new"
    if stored is None or (checkpoint is None and not state.is_complete):  # nothing was learned that could contradict
        try:
            config = configure(stored or base, None)
        except MtlError as error:
            # Perhaps for lack of the configuration that the folder has lost, which the warnings then say.
            raise MtlError(*(state.warnings if stored is None else ()), *error.lines) from error
        return OpenedRun(output, config, checkpoint, use=use)
    config = configure(stored, stored)
    changes = check_unchanged(stored_config(stored, output), config)
    if changes and checkpoint is None:
        raise MtlError(
            *changes,
            f"{output}: is finished and has no checkpoint to resume from; keep it as it is, or train again with --overwrite",
        )
    return OpenedRun(output, config, checkpoint, tuple(changes), state.is_complete and not changes, use)


def _notes_on_restarts() -> tuple[str, ...]:
    """Return a note where torchrun would start a command again that names no folder."""
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    if world().is_alone or restarts == "0":
        return ()
    return (
        "a restart by torchrun would begin a new run, because no folder is named; with --output it resumes this one",
    )


def _was_started(output: Path, overwrite: bool) -> bool:
    """Return whether a folder holds a run that this command can have started; with `overwrite`, one that has not ended."""
    if is_free(output):
        return False
    try:
        state = inspect_folder(output, resume=True, overwrite=False)
    except MtlError:
        return False
    return not (overwrite and state.is_complete)


def open_or_restart(config: Config, output: Path) -> OpenedRun:
    """Open a run of exactly this configuration: resume the one in the folder, or start again where it differs or is damaged."""
    try:
        state = inspect_folder(output, resume=True, overwrite=False)
    except MtlError:  # no checkpoint is undamaged
        return OpenedRun(output, config, use="overwrite")
    # A stored configuration that no longer resolves, such as one that names a removed plugin, is compared as it is written.
    if state.stored is None or differences(state.stored.values, config.plain()):
        return OpenedRun(output, config, use="new" if is_free(output) else "overwrite")
    return OpenedRun(output, config, state.checkpoint, (), state.is_complete, "resume")


def claim_run(opened: OpenedRun) -> RunFolder:
    """Claim the folder of an opened run for this process.

    Raises:
        MtlError: the folder cannot be written, or another process uses it.
    """
    together, held = world(), list[RunFolder]()

    def claim_first() -> tuple[Path, FolderState]:
        if opened.use == "name":
            held.append(claim_new(opened.folder))
        else:
            held.append(claim(opened.folder, resume=opened.use == "resume", overwrite=opened.use == "overwrite"))
        return held[0].path, held[0].state

    path, state = together.same(claim_first)
    # The first process alone holds and writes it.
    return held[0] if held else RunFolder(path, state, False, None)


def set_up_run(opened: OpenedRun, tell: Callable[[str], None] = lambda _: None, *, cache: bool = True) -> TrainingRun:
    """Read the data and build the model of an opened run. `tell` receives a line about work that takes long.

    Raises:
        MtlError: everything that is wrong with data, encoder or methods.
    """
    encoder = None if opened.checkpoint is None else opened.checkpoint.folder / ENCODER
    run = set_up(
        opened.config, encoder_from=encoder, cache=cache_folder() if cache else None, first_step=opened.first_step, tell=tell
    )  # fmt: skip
    check_agreement(run)
    return run


def run_training(
    opened: OpenedRun, *, command: str = "", stop: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda _: None,
) -> Generator[Event, None, None]:  # fmt: skip
    """Train an opened run, yielding what happens: notes, `Ready` before anything is written, then the events of the loop.

    Raises:
        MtlError: everything that a user can fix, from the data to a loss that is not finite.
    """
    trackers = make_trackers(opened.config.trackers) if world().is_main else {}
    with claim_run(opened) as folder:
        for line in folder.warnings:
            yield Notice(line, is_warning=True)
        for note in opened.notes:
            yield Notice(f"note: {note}")
        if opened.is_complete and folder.is_complete:
            yield end_of_complete(folder)
            return
        # Another process may have saved a later checkpoint since the folder was inspected.
        run = set_up_run(replace(opened, checkpoint=folder.checkpoint), tell)
        yield Ready(run.plan, folder.path)
        yield from tracked(train(run, folder, command=command, stop=stop), opened.config, trackers)


def with_seed(configure: Configure, seed: int) -> Configure:
    """Return the same configuration with another seed."""

    def configure_seed(stored: Layer | None, resumed: Layer | None) -> Config:
        config = configure(stored, resumed)
        return config.model_copy(update={"training": config.training.model_copy(update={"seed": seed})})

    return configure_seed
