"""The saved model of a run: an encoder that transformers loads, the heads beside it, and the record to use both."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from mtlcli.config.schema import Config
from mtlcli.encoders.load import LoadedEncoder, load_encoder
from mtlcli.errors import MtlError, one_of, suggest
from mtlcli.facts import TaskFacts
from mtlcli.files import load_tensors, scratch_folder, sha256, share, sync, sync_folder
from mtlcli.model.build import build_model, join_state, split_state
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.runs.names import ENCODER, HEADS, RECORD
from mtlcli.runs.record import (
    RunRecord,
    check_installed,
    must_be_as_written,
    read_record,
    stored_config,
    stored_facts,
    write_record,
)

README = """# This folder alone does not give the features of the run

{reason} What sentence-transformers computes from this folder differs from the features of the run, which are:

{ways}
"""

IN_PYTHON = '* in Python: `mtlcli.load("RUN").encode(texts{task})` with the folder above this one as RUN;'

WITH_LAYERS = """* with transformers: `AutoModel.from_pretrained(folder)(..., output_hidden_states=True).hidden_states[{layer}]`, pooled as
  `1_Pooling/config.json` says."""

MERGED = "\n* as a plain encoder: `mtl export RUN{task} --output FOLDER`."


def why_not_alone(model: MultiTaskModel, architecture: str) -> tuple[str, str] | None:
    """Return why sentence-transformers reads other features from encoder/ than the run does, and how to get those of the run.

    None where they are the same.
    """
    try:
        # An architecture that does not change the encoder returns the encoder itself.
        plain = model.architecture.merged(None) is model.architecture.encoder
        reason = "" if plain else "changes the encoder, and the changes are stored beside it"
    except MtlError as error:
        plain, reason = False, str(error)
    # Tasks that share one pass have the same features, so none needs to be named.
    task = "" if len({model.pass_of(task) for task in range(len(model.names))}) == 1 else f', task="{model.names[0]}"'
    in_python = IN_PYTHON.format(task=task)
    if not plain:
        merged = (
            MERGED.format(task=f" --task {model.names[0]}" if task else "") if _can_merge(model, bool(task)) else ""
        )
        return f"The architecture {architecture} {reason}.", f"{in_python}{merged}"
    if model.layer == -1:
        return None
    reason = f"The run reads layer {model.layer} of the encoder (encoder.layer), and sentence-transformers always reads the last."
    return reason, f"{in_python}\n{WITH_LAYERS.format(layer=model.layer)}"


def _can_merge(model: MultiTaskModel, by_task: bool) -> bool:
    try:
        model.architecture.merged(0 if by_task else None)
    except MtlError:
        return False
    return True


def save_tokenizer_and_config(encoder: LoadedEncoder, folder: Path) -> None:
    """Write what is needed to build the encoder again, except its weights."""
    encoder.model.config.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)


def export(run: Path, model: MultiTaskModel, encoder: LoadedEncoder, facts: Mapping[str, Any]) -> None:
    """Write encoder/, heads.safetensors and run.json, each complete; run.json comes last and holds the sha256 of the others.

    Raises:
        MtlError: a file cannot be written.
    """
    with scratch_in(run) as scratch:
        place = scratch / ENCODER
        place.mkdir(parents=True)
        write_encoder(place, encoder, model.pooling, facts["max_length"])
        alone, ways = why_not_alone(model, facts["architecture"]["name"]) or (None, "")
        if alone is not None:
            (place / "README.md").write_text(README.format(reason=alone, ways=ways), encoding="utf-8")
        _, rest = split_state(model)
        # Copies, because safetensors rejects tensors that share memory.
        save_file({key: value.detach().cpu().contiguous().clone() for key, value in rest.items()}, scratch / HEADS)
        written = [*sorted(path for path in place.rglob("*") if path.is_file()), scratch / HEADS]
        files = {path.relative_to(scratch).as_posix(): sha256(path) for path in written}
        write_record(scratch, {**facts, "encoder_alone": alone, "files": files})
        # For the old encoder, which a rename cannot overwrite; it is removed with the scratch folder.
        (scratch / "replaced").mkdir()
        share(scratch)
        sync(scratch)
        # A record that is there speaks of the old files, so it goes first: a kill in between leaves no model rather than a
        # damaged one.
        (run / RECORD).unlink(missing_ok=True)
        if (run / ENCODER).exists():
            (run / ENCODER).rename(scratch / "replaced" / ENCODER)
        place.rename(run / ENCODER)
        for name in (HEADS, RECORD):
            (scratch / name).replace(run / name)
        sync_folder(run)


def write_encoder(folder: Path, encoder: LoadedEncoder, pooling: str, max_length: int) -> None:
    """Write an encoder and its tokenizer for transformers and sentence-transformers."""
    encoder.model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    _sentence_transformers(folder, pooling, encoder, max_length)


@contextmanager
def scratch_in(run: Path) -> Iterator[Path]:
    """Make a scratch folder in a folder, with its permissions, and remove it at the end.

    Raises:
        MtlError: something cannot be written.
    """
    try:
        with scratch_folder(run) as scratch:
            # A scratch folder is private, and `share` gives its permissions to the files.
            scratch.chmod(run.stat().st_mode & 0o777)
            yield scratch
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise MtlError(f"{run}: the model cannot be written ({reason}); the checkpoints are complete") from error


def _sentence_transformers(folder: Path, pooling: str, encoder: LoadedEncoder, max_length: int) -> None:
    """Write the files by which sentence-transformers pools as this run did."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules, indent=1), encoding="utf-8")
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": max_length, "do_lower_case": False}), encoding="utf-8"
    )
    (folder / "1_Pooling").mkdir()
    mode = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "max": "pooling_mode_max_tokens"}
    modes = {name: kind == pooling for kind, name in mode.items()}
    config = json.dumps({"word_embedding_dimension": encoder.dim, **modes})
    (folder / "1_Pooling" / "config.json").write_text(config, encoding="utf-8")


@dataclass(frozen=True)
class SavedRun:
    """A loaded run: its model, the task facts in order, and run.json as it is."""

    folder: Path
    config: Config
    model: MultiTaskModel
    encoder: LoadedEncoder
    facts: tuple[TaskFacts, ...]
    record: RunRecord

    def task(self, name: str) -> int:
        """Return the index of a task. Raise MtlError with the names of all tasks if there is no such one."""
        names = [task.name for task in self.facts]
        if name not in names:
            raise MtlError(f'{self.folder}: no task "{name}"{suggest(name, names)}')
        return names.index(name)


def load_run(folder: Path) -> tuple[SavedRun, list[str]]:
    """Return the model of a run, ready to predict, and warnings.

    Raises:
        MtlError: a file is missing or damaged, or a plugin that the run needs is not installed.
    """
    record = read_record(folder)
    must_be_as_written(folder, record)
    warnings = check_installed(record)
    config, facts = stored_config(record), stored_facts(record)
    encoder = load_encoder(folder / ENCODER)
    model = build_model(config, encoder, facts)
    missing, unexpected = model.load_state_dict(join_state(model, load_tensors(folder / HEADS)), strict=False)
    # The encoder's weights are in its own folder, so heads.safetensors lacks them.
    wrong = [key for key in missing if not key.startswith("architecture.encoder.")] + list(unexpected)
    if wrong:
        raise MtlError(f"{folder / HEADS}: does not fit the heads of this mtlcli: {one_of(wrong[:4])}")
    model.eval()
    return SavedRun(folder, config, model, encoder, facts, record), warnings
