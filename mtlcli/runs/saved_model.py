"""What a run leaves behind: an encoder that transformers loads, the heads beside it, and the facts to use both."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from mtlcli.config.schema import Config
from mtlcli.encoders.load import LoadedEncoder, load_encoder
from mtlcli.errors import MtlError, one_of, suggest
from mtlcli.facts import TaskFacts
from mtlcli.files import load_tensors, sha256, share, sync
from mtlcli.model.build import build_model, join_state, split_state
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.runs.record import FORMAT, check_installed, must_be_as_written, read_record, stored_config, stored_facts


def save_tokenizer_and_config(encoder: LoadedEncoder, folder: Path) -> None:
    """What is needed to make the encoder again, weights aside."""
    encoder.model.config.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)


def export(run: Path, model: MultiTaskModel, encoder: LoadedEncoder, facts: dict[str, Any]) -> None:
    """Writes encoder/, heads.safetensors and run.json, each whole; run.json comes last and holds the others' sha256."""
    scratch = run / ".writing-export"
    shutil.rmtree(scratch, ignore_errors=True)
    place = scratch / "encoder"
    place.mkdir(parents=True)
    encoder.model.save_pretrained(place)
    encoder.tokenizer.save_pretrained(place)
    _sentence_transformers(place, model.pooling, encoder, facts["max_length"])
    _, rest = split_state(model)
    save_file(
        {key: value.detach().cpu().contiguous().clone() for key, value in rest.items()}, scratch / "heads.safetensors"
    )
    written = [*sorted(path for path in place.rglob("*") if path.is_file()), scratch / "heads.safetensors"]
    files = {path.relative_to(scratch).as_posix(): sha256(path) for path in written}
    (scratch / "run.json").write_text(json.dumps({"format": FORMAT, **facts, "files": files}, indent=1) + "\n")
    share(scratch)
    sync(scratch)
    old = run / ".old-encoder"
    shutil.rmtree(old, ignore_errors=True)
    if (run / "encoder").exists():
        (run / "encoder").rename(old)
    place.rename(run / "encoder")
    for name in ("heads.safetensors", "run.json"):
        (scratch / name).replace(run / name)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(scratch, ignore_errors=True)


def _sentence_transformers(folder: Path, pooling: str, encoder: LoadedEncoder, max_length: int) -> None:
    """The files by which sentence-transformers pools as this run did."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules, indent=1))
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": max_length, "do_lower_case": False})
    )
    (folder / "1_Pooling").mkdir()
    mode = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "max": "pooling_mode_max_tokens"}
    chosen = {name: kind == pooling for kind, name in mode.items()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": encoder.dim, **chosen}))


@dataclass(frozen=True)
class SavedRun:
    """A finished run: its model, the task facts in order, and run.json as it stands."""

    folder: Path
    config: Config
    model: MultiTaskModel
    encoder: LoadedEncoder
    facts: tuple[TaskFacts, ...]
    record: dict[str, Any]

    def task(self, name: str) -> int:
        """Index of a task. Raises MtlError naming the tasks there are."""
        names = [task.name for task in self.facts]
        if name not in names:
            raise MtlError(f'{self.folder}: no task "{name}"{suggest(name, names)}')
        return names.index(name)


def load_run(folder: Path) -> tuple[SavedRun, list[str]]:
    """The model of a finished run, ready to predict, and warnings. Raises MtlError for what is missing or damaged."""
    record = read_record(folder)
    must_be_as_written(folder, record)
    warnings = check_installed(record)
    config, facts = stored_config(record), stored_facts(record)
    encoder = load_encoder(folder / "encoder")
    model = build_model(config, encoder, facts)
    missing, unexpected = model.load_state_dict(
        join_state(model, load_tensors(folder / "heads.safetensors")), strict=False
    )
    wrong = [key for key in missing if not key.startswith("architecture.encoder.")] + list(unexpected)
    if wrong:
        raise MtlError(f"{folder}/heads.safetensors: does not fit the heads of this mtlcli: {one_of(wrong[:4])}")
    model.eval()
    return SavedRun(folder, config, model, encoder, facts, record), warnings
