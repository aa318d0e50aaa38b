"""Names of the files in the folder of a run, a group of seeds, an ensemble or a study."""

from pathlib import Path

CONFIG = "config.yaml"
COMMAND = "command.txt"
ENVIRONMENT = "environment.json"
PLAN = "plan.json"
METRICS = "metrics.jsonl"
LOG = "train.log"
CHECKPOINTS = "checkpoints"
ENCODER = "encoder"
HEADS = "heads.safetensors"
RECORD = "run.json"
PREDICTIONS = "predictions"
RESULTS = "results.json"
LOCK = ".lock"
ONNX = "onnx"
SENTENCE_TRANSFORMERS = "sentence-transformers"
"""Folders of exports in the run."""
MANIFEST = "export.json"
"""Lists the files of an export, and the digest of the model that it was made from."""

SEEDS = "seeds.json"
ENSEMBLE = "ensemble.json"
MERGE = "merge.json"
TRACKERS = "trackers.json"
TRACKER_FILES = "trackers"
STUDY = "study.json"

# `remove_run` removes these files, and leaves every file that is not listed.
RUN_FILES = (CONFIG, COMMAND, ENVIRONMENT, PLAN, METRICS, LOG, HEADS, RECORD, RESULTS, MERGE, TRACKERS)
RUN_FOLDERS = (CHECKPOINTS, ENCODER, PREDICTIONS, ONNX, SENTENCE_TRANSFORMERS)


def predictions_path(folder: Path, task: str, split: str) -> Path:
    """Return the file of a run's predictions for one split of a task."""
    return folder / PREDICTIONS / f"{task}.{split}.jsonl"


def predicted_splits(folder: Path, split: str) -> dict[tuple[str, str], Path]:
    """Return the files of a run's predictions for a split and its sets, by task and split: `dev` includes `dev.matched`."""
    files = {}
    for path in sorted((folder / PREDICTIONS).glob("*.jsonl")):
        task, _, name = path.name.removesuffix(".jsonl").partition(".")
        if name == split or name.startswith(f"{split}."):
            files[task, name] = path
    return files


def not_a_run(folder: Path, lacking: str) -> str:
    """Return an error line about a folder that holds no run: what it holds, and what to name instead."""
    if (folder / ENSEMBLE).is_file():
        return f"{folder}: is an ensemble; expected a run, such as one of those it is made of (see its {ENSEMBLE})"
    if (folder / STUDY).is_file():
        return f"{folder}: is a study; expected a run or a method's runs in it (its table: mtl study --table {folder})"
    return f"{folder}: not a run folder (no {lacking}); expected a folder that `mtl train --output` made"


def resume_command(folder: Path) -> str:
    """Return the command that resumes the run or group in a folder."""
    return f"mtl train --resume --output {folder}"
