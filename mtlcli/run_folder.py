"""What a run leaves behind: an encoder that transformers loads, the heads beside it, and the facts to use both."""

import json
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mtlcli import __version__, registry
from mtlcli.architectures.base import ArchitectureFacts
from mtlcli.checkpoint import load_tensors, sha256, share, sync
from mtlcli.config import Config
from mtlcli.encoders.resolving import LoadedEncoder, load_encoder
from mtlcli.errors import MtlError, did_you_mean, one_of, suggest
from mtlcli.grouping import must_be_no_group, not_a_run
from mtlcli.heads.base import HeadFacts
from mtlcli.heads.layers import SharedModules
from mtlcli.model import MultiTaskModel
from mtlcli.plugin import TaskFacts, seed_for
from mtlcli.recipes import Layer

FORMAT = 1


def build_model(config: Config, encoder: LoadedEncoder, facts: tuple[TaskFacts, ...]) -> MultiTaskModel:
    """Architecture and heads around an encoder. The first weights of the architecture depend on the seed alone, a head's on the
    seed and its task's name, those of a module that heads share on the seed and the module's name."""
    make = registry.load("architectures", config.architecture.name, "architecture")
    seed = config.training.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "architecture"))
        architecture = make(ArchitectureFacts(encoder.model, facts), **config.architecture.options)
    heads, shared = {}, SharedModules(seed)
    for task in facts:
        section = config.tasks[task.name]
        if section.head is None:
            raise ValueError("an unresolved configuration")
        head = registry.load("heads", section.head.name, f"tasks.{task.name}.head")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "head", task.name))
            sides = 2 if section.encoding == "bi" else 1
            known = HeadFacts(task, encoder.dim, sides, shared.asked_by(task.name))
            heads[task.name] = head(known, **section.head.options)
        if section.layer is not None:
            heads[task.name].layer = section.layer
    return MultiTaskModel(architecture, heads, pooling=config.encoder.pooling, layer=config.encoder.layer)


def split_state(model: MultiTaskModel) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The model's state as that of the encoder, and everything else with heads under their tasks' names."""
    encoder, rest = {}, {}
    prefix = "architecture.encoder."
    for key, value in model.state_dict().items():
        if key.startswith(prefix):
            encoder[key.removeprefix(prefix)] = value
        elif key.startswith("heads."):
            index, name = key.removeprefix("heads.").split(".", 1)
            rest[f"{model.names[int(index)]}.{name}"] = value
        else:
            rest[key] = value
    return encoder, rest


def join_state(model: MultiTaskModel, rest: dict[str, Tensor]) -> dict[str, Tensor]:
    """The other way round, without the encoder."""
    index = {name: number for number, name in enumerate(model.names)}
    found = {}
    for key, value in rest.items():
        task, _, name = key.partition(".")
        found[f"heads.{index[task]}.{name}" if task in index else key] = value
    return found


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


def task_record(
    config: Config, task: TaskFacts, texts: tuple[str, ...], label: str | None, metrics: tuple[str, ...]
) -> dict[str, Any]:
    """What run.json says of a task: enough to read, predict and measure it again."""
    section = config.tasks[task.name]
    kind = registry.find("tasks", section.name, f"tasks.{task.name}")
    head = registry.find("heads", section.head.name if section.head else "", f"tasks.{task.name}.head")
    return {
        "kind": section.name,
        "distribution": kind.distribution,
        "version": kind.version,
        "encoding": section.encoding,
        "text": list(texts),
        "label": label,
        "metrics": list(metrics),
        "head": section.head.model_dump() if section.head else None,
        "head_distribution": head.distribution,
        "head_version": head.version,
        "facts": asdict(task),
        "config": section.model_dump(mode="json", by_alias=True),
    }


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


def read_record(folder: Path) -> dict[str, Any]:
    """run.json of a run. Raises MtlError for a folder that holds no finished run."""
    if folder.is_file():
        raise MtlError(f"{folder}: is a file; expected a run folder, such as {folder.absolute().parent}")
    if not folder.is_dir():
        near = [other.name for other in folder.absolute().parent.iterdir()] if folder.absolute().parent.is_dir() else []
        raise MtlError(f"{folder}: there is no such run folder{did_you_mean(folder.name, near)}")
    must_be_no_group(folder)
    path = folder / "run.json"
    if not path.is_file():
        if (folder / "checkpoints").is_dir() or (folder / "config.yaml").is_file():
            raise MtlError(
                f"{folder}: this run has saved no model yet; go on with: mtl train --resume --output {folder}"
            )
        raise MtlError(not_a_run(folder, "run.json"))
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        if record["format"] == FORMAT:
            _must_be_whole(record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise MtlError(
            f"{path}: damaged ({what[:120]}); write it again from the checkpoint: mtl train --resume --output {folder}"
        ) from error
    if record["format"] != FORMAT:
        raise MtlError(
            f"{path}: format {record['format']} was written by another mtlcli ({record.get('mtlcli')}); this is {__version__}"
        )
    return record


def _must_be_whole(record: Mapping[str, Any]) -> None:
    """Raises ValueError, KeyError, TypeError or AttributeError, as it comes, for what is not as `export` wrote it."""
    stored_config(record)
    for task in record["tasks"].values():
        _facts(task["facts"])
        tuple(task["text"])
        bool(task["config"]["header"])
    dict(record["files"])
    int(record["step"])


def stored_config(record: Mapping[str, Any]) -> Config:
    """The configuration of a run, resolved."""
    return Config.model_validate(record["config"])


def stored_facts(record: Mapping[str, Any]) -> tuple[TaskFacts, ...]:
    """What is known of each task, in their order."""
    return tuple(_facts(task["facts"]) for task in record["tasks"].values())


def must_be_as_written(folder: Path, record: Mapping[str, Any]) -> None:
    """Raises MtlError for the first file of a run that is missing or changed."""
    for name, digest in record["files"].items():
        path = folder / name
        if not path.is_file() or sha256(path) != digest:
            state = "is not as it was written (sha256 differs)" if path.is_file() else "is missing"
            raise MtlError(f"{path}: {state}; write it again from the checkpoint: mtl train --resume --output {folder}")


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


def _facts(values: dict[str, Any]) -> TaskFacts:
    labels, score_range = values["labels"], values["score_range"]
    return TaskFacts(
        **values
        | {
            "labels": None if labels is None else tuple(labels),
            "score_range": None if score_range is None else tuple(score_range),
        }
    )


def check_installed(record: Mapping[str, Any]) -> list[str]:
    """Raises MtlError when the distribution that a task or its head comes from is gone; warns when it is another version."""
    warnings = []
    sources = {}
    for name, task in record["tasks"].items():
        sources[f'task "{name}"'] = (task["distribution"], task["version"])
        sources[f'the head of task "{name}"'] = (task["head_distribution"], task["head_version"])
    for what, (distribution, version) in sources.items():
        if distribution in ("mtlcli", "(local)"):
            continue
        try:
            now = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            raise MtlError(
                f"{what} comes from {distribution} {version}, which is not installed: pip install {distribution}"
            ) from None
        if now != version:
            warnings.append(f"{what} was trained with {distribution} {version}; {now} is installed")
    return warnings


def environment(device: torch.device, seed: int) -> dict[str, Any]:
    """Versions, machine, device and the state of the git checkout one stands in, if any."""
    versions = {
        name: metadata.version(name)
        for name in ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pydantic")
    }
    return {
        "mtlcli": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "git": _git(),
        "versions": versions,
    }


def _git() -> str | None:
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def stored_layer(folder: Path) -> Layer | None:
    """The configuration a run was started with, None where there is none."""
    from mtlcli.recipes import read_recipe

    path = folder / "config.yaml"
    return read_recipe(path) if path.is_file() else None
