"""What a run folder is, and opening it for a new or a resumed run."""

from pathlib import Path

from mtlcli.config.layers import Layer, read_recipe
from mtlcli.errors import MtlError
from mtlcli.runs import checkpoint
from mtlcli.runs.checkpoint import Checkpoint


def stored_layer(folder: Path) -> Layer | None:
    """The configuration a run was started with, None where there is none."""
    path = folder / "config.yaml"
    return read_recipe(path) if path.is_file() else None


def is_finished(run: Path) -> bool:
    """Whether a run has come to its end: results.json is what it writes last, and takes away when it goes on."""
    return (run / "results.json").is_file()


def not_a_run(folder: Path, lacking: str) -> str:
    """An error line about a folder that is something else, and what to name instead."""
    if (folder / "ensemble.json").is_file():
        return f"{folder}: is an ensemble; expected a run, such as one of those it is made of (see its ensemble.json)"
    if (folder / "study.json").is_file():
        return f"{folder}: is a study; expected a run or a method's runs in it (its table: mtl study --table {folder})"
    return f"{folder}: not a run folder (no {lacking}); expected what `mtl train --output` made"


def open_folder(folder: Path, *, resume: bool, overwrite: bool) -> Checkpoint | None:
    """Looks at the run folder before anything is slow; the checkpoint to go on from, if there is one.

    Raises MtlError for a folder that holds something and neither flag is given, and for --overwrite of what is no run.
    """
    if resume and overwrite:
        raise MtlError("--resume and --overwrite exclude each other; give one")
    if folder.exists() and not folder.is_dir():
        raise MtlError(f"--output: {folder} is a file; expected a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    if overwrite and not ((folder / "config.yaml").is_file() or (folder / "run.json").is_file()):
        raise MtlError(
            f"--overwrite: {folder} is not a run folder, so nothing in it is deleted; choose another --output"
        )
    if overwrite:
        return None
    if not resume:
        raise MtlError(
            f"--output: {folder} is not empty: add --resume to go on with that run, or --overwrite to replace it"
        )
    found, skipped = checkpoint.latest(folder / "checkpoints")
    if found is None and skipped:
        raise MtlError(*skipped, f"{folder}: no whole checkpoint to resume from; start anew with --overwrite")
    return found
