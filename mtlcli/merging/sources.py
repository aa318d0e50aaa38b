"""Runs to merge: what they have to share, and the encoder that they started from."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlcli.config.schema import Config, EncoderConfig, is_encoder_plugin
from mtlcli.data.splits import load_task
from mtlcli.encoders.base import EncoderFacts
from mtlcli.encoders.load import LoadedEncoder, encoder_folder, load_encoder
from mtlcli.errors import MtlError, one_of, suggest
from mtlcli.files import load_tensors
from mtlcli.merging.tensors import TensorFile, write_state
from mtlcli.runs.ensemble import EnsembleMember, must_agree, read_member
from mtlcli.runs.names import ENCODER, ENSEMBLE, HEADS, RECORD
from mtlcli.runs.record import check_installed, must_be_as_written, stored_config
from mtlcli.runs.results import has_results
from mtlcli.runs.seeds import finished_group


@dataclass(frozen=True)
class Source:
    """A run to merge: what its folder holds, and its configuration."""

    member: EnsembleMember
    config: Config

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.member.folder


@dataclass(frozen=True)
class Sources:
    """Runs that can be merged.

    Attributes:
        runs: in the order of the command.
        owners: for each task, the number of the run whose head and configuration the merged run has.
        notes: what a user should know.
    """

    runs: tuple[Source, ...]
    owners: Mapping[str, int]
    notes: tuple[str, ...]

    def owner(self, task: str) -> Source:
        """Return the run of a task's head."""
        return self.runs[self.owners[task]]


def open_sources(folders: Sequence[Path], heads: Mapping[str, Path]) -> Sources:
    """Open the runs to merge, without their weights. A folder of seeds stands for its runs.

    Args:
        folders: the run folders.
        heads: for tasks that several runs have, the run whose head is kept; of others, that of the first run.

    Raises:
        MtlError: everything that prevents a merge, as far as the configurations show it.
    """
    expanded = [run for folder in folders for run in _runs_of(folder)]
    errors = [
        f"{folder}: the run is named twice; name it once"
        for index, folder in enumerate(expanded)
        if folder.resolve() in [other.resolve() for other in expanded[:index]]
    ]
    runs: list[Source] = []
    for folder in dict.fromkeys(expanded):
        try:
            runs.append(_open(folder))
        except MtlError as error:
            errors += error.lines
    if errors:
        raise MtlError(*errors)
    errors += [line for run in runs[1:] for line in _differences(runs[0], run)]
    names = list(dict.fromkeys(facts.name for run in runs for facts in run.member.facts))
    owners: dict[str, int] = {}
    notes: list[str] = []
    for name in names:
        having = [index for index, run in enumerate(runs) if run.member.find(name) is not None]
        try:
            must_agree([runs[index].member for index in having], name)
            owners[name] = _owner(runs, having, name, heads.get(name))
        except MtlError as error:
            errors += error.lines
            continue
        if len(having) > 1:
            notes.append(f"{name}: {len(having)} runs have this task; its head is that of {runs[owners[name]].folder}")
    errors += [f"--head {name}: no run has such a task{suggest(name, names)}" for name in heads if name not in names]
    if errors:
        raise MtlError(*errors)
    return Sources(tuple(runs), owners, tuple(notes))


def _runs_of(folder: Path) -> tuple[Path, ...]:
    group = finished_group(folder)
    return (folder,) if group is None else group.runs


def _open(folder: Path) -> Source:
    if (folder / ENSEMBLE).is_file():
        raise MtlError(f"{folder}: is an ensemble, which has several encoders; name its runs instead")
    member = read_member(folder)
    must_be_as_written(folder, member.record)
    check_installed(member.record)
    if not has_results(folder):
        raise MtlError(f"{folder}: the run has not finished; resume it first: mtl train --resume --output {folder}")
    config = stored_config(member.record)
    # The file of the heads also has what an architecture adds to the encoder.
    outside = [name for name in load_tensors(folder / HEADS) if name.startswith("architecture.")]
    if outside:
        raise MtlError(
            f'{folder}: the architecture "{config.architecture.name}" has weights outside the encoder; expected a run whose '
            "tasks share a plain encoder (architecture hard-sharing)"
        )
    return Source(member, config)


def _differences(first: Source, run: Source) -> Iterator[str]:
    """Yield an error for each setting that all runs have to share."""
    for key, a, b in (
        ("architecture", first.config.architecture.name, run.config.architecture.name),
        *(
            (f"encoder.{key}", getattr(first.config.encoder, key), getattr(run.config.encoder, key))
            for key in ("pooling", "layer", "max_length")
        ),
    ):
        if a != b:
            yield f"{run.folder}: {key} is {b}, and {a} in {first.folder}; runs to merge have to share it"


def _owner(runs: Sequence[Source], having: Sequence[int], name: str, head: Path | None) -> int:
    if head is None:
        return having[0]
    for index in having:
        if runs[index].folder.resolve() == head.resolve():
            return index
    raise MtlError(
        f"--head {name}={head}: expected one of the runs that have this task: "
        f"{one_of(str(runs[index].folder) for index in having)}"
    )


# Weights


@dataclass(frozen=True)
class Weights:
    """The weights of all encoders in scratch files: of the start, and of each run.

    `digest` is that of the start's values, and `described` names it.
    """

    start: TensorFile
    runs: tuple[TensorFile, ...]
    digest: str
    described: str


def open_weights(sources: Sources, scratch: Path, start: str | None = None) -> tuple[Weights, LoadedEncoder]:
    """Write the weights of all encoders to scratch files, and return the first run's encoder too.

    Args:
        start: the encoder that all runs started from, as a run folder, a model folder or a Hub id, where it cannot be found by what
            the runs record.

    Raises:
        MtlError: a run's encoder differs in architecture, tokenizer or start from the first run's.
    """
    first = load_encoder(sources.runs[0].folder / ENCODER)
    files = [write_state(first.model, scratch / "run-0.safetensors")]
    tokenizer, kind = _tokenizer(first), first.model.config.model_type
    errors = []
    for index, run in enumerate(sources.runs[1:], start=1):
        encoder = load_encoder(run.folder / ENCODER)
        files.append(write_state(encoder.model, scratch / f"run-{index}.safetensors"))
        named = f"{run.folder}: its encoder"
        if encoder.model.config.model_type != kind or files[-1].shapes != files[0].shapes:
            errors.append(
                f"{named} has another architecture than that of {sources.runs[0].folder} ({_shape(encoder)} instead of "
                f"{_shape(first)}); only runs of one encoder can be merged"
            )
        # Tokenizers are compared only for encoders of one architecture; otherwise the first error says enough.
        elif _tokenizer(encoder) != tokenizer:
            errors.append(
                f"{named} has another tokenizer than that of {sources.runs[0].folder}, so the same row of its embeddings is "
                "another word; start both from one run (--init) or one pretrained encoder"
            )
    if errors:
        raise MtlError(*errors)
    if start is not None:
        file = _write_start(_given_start(start, scratch), scratch / "start.safetensors")
        _must_fit(file, files[0], f"--start {start}")
        return Weights(file, tuple(files), file.digest(), start), first
    starts: dict[str, TensorFile] = {}
    digests: list[str] = []
    for index, run in enumerate(sources.runs):
        key = _start_key(run, index)
        if key not in starts:
            place = scratch / f"start-{index}"
            place.mkdir()
            starts[key] = _write_start(_start_folder(run, place), place / "start.safetensors")
            _must_fit(starts[key], files[0], f"{run.folder}: the encoder that it started from ({_start_name(run)})")
        # Compared by values, because one encoder can have several names, such as a folder and a Hub id.
        digests.append(starts[key].digest())
    if other := next((index for index, digest in enumerate(digests) if digest != digests[0]), None):
        run, base = sources.runs[other], sources.runs[0]
        raise MtlError(
            f"{run.folder}: started from other weights ({_start_name(run)}) than {base.folder} ({_start_name(base)}); only runs that "
            "started from the same encoder can be merged"
        )
    return Weights(next(iter(starts.values())), tuple(files), digests[0], _start_name(sources.runs[0])), first


def _write_start(folder: Path, path: Path) -> TensorFile:
    return write_state(load_encoder(folder).model, path)


def _must_fit(start: TensorFile, run: TensorFile, named: str) -> None:
    if start.shapes != run.shapes:
        raise MtlError(f"{named}: its weights have other names or shapes than those of the runs; name it with --start")


def _shape(encoder: LoadedEncoder) -> str:
    layers = getattr(encoder.model.config, "num_hidden_layers", "?")
    words = encoder.model.get_input_embeddings().weight.shape[0]
    return f"{encoder.model.config.model_type}, {layers} layers of width {encoder.dim}, {words} word pieces"


def _tokenizer(encoder: LoadedEncoder) -> dict[str, Any]:
    """Return the tokenizer without the state that depends on the last text."""
    content: dict[str, Any] = json.loads(encoder.tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in content.items() if key not in ("truncation", "padding")}


def _start_name(run: Source) -> str:
    if run.config.init is not None:
        return f"init: {run.config.init}"
    seed = f", seed {run.config.training.seed}" if is_encoder_plugin(run.config.encoder.name) else ""
    return f"{run.config.encoder.name}{seed}"


def _start_key(run: Source, index: int) -> str:
    """Return a text that is equal for runs whose start is the same folder; that of a plugin can depend on the run's texts."""
    if run.config.init is not None:
        return f"init {Path(run.config.init).resolve()}"
    return f"plugin {index}" if is_encoder_plugin(run.config.encoder.name) else run.config.encoder.name


def _given_start(start: str, scratch: Path) -> Path:
    if (Path(start) / RECORD).is_file():
        return Path(start) / ENCODER
    if is_encoder_plugin(start):
        raise MtlError(f"--start {start}: expected a run folder, a model folder or a Hub id")
    try:
        # A folder or Hub id depends on neither texts nor seed, which only plugins read.
        return encoder_folder(EncoderConfig(name=start), EncoderFacts(lambda: iter(()), scratch, 0, 16))
    except MtlError as error:
        raise MtlError(*(f"--start: {line.removeprefix('encoder: ')}" for line in error.lines)) from error


def _start_folder(run: Source, scratch: Path) -> Path:
    """Return the folder of the encoder that a run started from; a plugin's is made again.

    Raises:
        MtlError: it does not exist any more.
    """
    try:
        if run.config.init is not None:
            origin = Path(run.config.init)
            must_be_as_written(origin, read_member(origin).record)
            return origin / ENCODER
        config = run.config
        facts = EncoderFacts(lambda: _texts(config), scratch, config.training.seed, config.encoder.max_length)
        return encoder_folder(config.encoder, facts)
    except MtlError as error:
        cure = "name the encoder that all runs started from with --start"
        raise MtlError(*(f"{run.folder}: its start: {line}; {cure}" for line in error.lines)) from error


def _texts(config: Config) -> Iterator[str]:
    """Yield the training texts of a run, from which a plugin may have made its vocabulary."""
    for name, section in config.tasks.items():
        task = load_task(
            name, section, section.make(name), data=config.data, sample=config.sample, seed=config.training.seed
        )
        for texts in task.splits["train"].texts():
            yield from map(str, texts)
