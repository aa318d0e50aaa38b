"""Model cards: what is known of a run, for people and for the Hugging Face Hub (Mitchell et al. 2019, arXiv:1810.03993)."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from mtlcli import registry
from mtlcli.config.evaluation_sets import in_words
from mtlcli.config.layers import dump
from mtlcli.export.paths import without_folders
from mtlcli.files import sha256, write_whole
from mtlcli.runs.card_file import CARD, is_unchanged, marked
from mtlcli.runs.environment import read_environment
from mtlcli.runs.names import ENVIRONMENT, ONNX
from mtlcli.runs.record import RunRecord, read_record, stored_facts
from mtlcli.runs.results import Results, read_results
from mtlcli.statistics.bootstrap import Estimate

# `mtl push` takes this value for a license that is not filled in.
LICENSE = "other"
BODY = """
# {name}

One encoder for {count} task{plural}, trained with [mtlcli](https://github.com/mtlcli/mtlcli).

## Tasks
{tasks}

## Evaluation
{evaluation}

## How to use it
{use}

## Training
{training}

<details><summary>Recipe</summary>

```yaml
{recipe}```

Files are named without their folders.
</details>

## Data
{data}

## Not known
- **License**: fill in. That of this model depends on those of the encoder and of the data.
- **Intended use and limits**: fill in.
- **Bias and risks**: fill in.
"""


def write_card(run: Path, results: Results | None = None, *, overwrite: bool = False) -> bool:
    """Write README.md of a run, and return whether it was; a card that a person has changed stays unless `overwrite` is set.

    Args:
        run: The folder of the run.
        results: The results of a run that ends now; None to read those in the folder.
        overwrite: Whether to replace a card that a person has changed.

    Raises:
        MtlError: the folder holds no finished run, or cannot be written.
    """
    text = card_text(run, results)
    # License and limits are filled in by hand, so a card that was edited is not replaced without --overwrite.
    if (run / CARD).exists() and not is_unchanged(run) and not overwrite:
        return False
    write_whole(run / CARD, text)
    return True


def card_text(run: Path, results: Results | None = None) -> str:
    """Return the model card of a finished run: metadata of the Hub, and a page. `results` are read from the folder if None.

    It holds no folders, commands, users or hosts.

    Raises:
        MtlError: the folder holds no finished run.
    """
    record, results = read_record(run), results or read_results(run)
    name = run.resolve().name
    # Braces in the values are safe, because `format` parses BODY alone.
    body = BODY.format(
        name=name, count=len(record["tasks"]), plural="" if len(record["tasks"]) == 1 else "s",
        tasks="\n".join(_tasks(record, results)), evaluation="\n".join(_evaluation(record, results)),
        use=_use(run, name, record), training="\n".join(f"- {line}" for line in _training(run, record, results)),
        recipe=dump(_plain_recipe(record)), data="\n".join(_data(record)),
    )  # fmt: skip
    return marked(f"---\n{_metadata(name, record, results)}\n---\n{body}")


def _metadata(name: str, record: RunRecord, results: Results) -> str:
    """Return the metadata of the Hub as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    measured = []
    targets = {facts.name: facts.target for facts in stored_facts(record)}
    for task, split, metric, estimate in _primary(results):
        is_similarity = targets[task].bounds is not None and len(record["tasks"][task]["text"]) == 2
        measured.append(
            EvalResult(
                task_type="sentence-similarity" if is_similarity else targets[task].hub_task,
                task_name=task,
                # The Hub requires the id of a data set, which files of a user do not have.
                dataset_type=task,
                dataset_name=f"{task} ({in_words(split)}, {estimate.n:,} rows)",
                dataset_split=split,
                metric_type=metric,
                metric_value=round(estimate.value, 6),
                metric_args={"interval": [round(estimate.low, 6), round(estimate.high, 6)]},
                # `verified` is for results of the Hub's own evaluation service.
                verified=False,
            )
        )
    data = ModelCardData(
        license=LICENSE, library_name="mtlcli", tags=["multi-task", *_methods(record["config"])], base_model=_base_model(record),
        model_name=name if measured else None, eval_results=measured or None,
    )  # fmt: skip
    return str(data.to_yaml())


def _primary(results: Results) -> Iterator[tuple[str, str, str, Estimate]]:
    """Yield task, split, name and value of each task's primary metric, without means over several sets."""
    for task, splits in results.tasks.items():
        for split, metrics in splits.items():
            # The first metric of a split is the primary one.
            for metric, estimate in list(metrics.items())[:1]:
                if not estimate.sets:
                    yield task, split, metric, estimate


def _methods(config: Mapping[str, Any]) -> list[str]:
    """Return the balancer and the gradient regularizer by name."""
    sections = (config.get("balancer"), config.get("gradient_regularizer"))
    return [str(section["name"]) for section in sections if section]


def _base_model(record: RunRecord) -> str | None:
    """Return the encoder's id on the Hub; None for a folder or a plugin."""
    name = str(record["config"]["encoder"]["name"])
    # A colon is that of a local plugin, `package.module:Class`, see `is_encoder_plugin`.
    is_elsewhere = name.startswith((".", "/", "~")) or "\\" in name or ":" in name or name in registry.names("encoders")
    return name if not is_elsewhere and name.count("/") <= 1 else None


def _tasks(record: RunRecord, results: Results) -> Iterator[str]:
    yield "| task | kind | predicts | training rows | dev rows |\n|---|---|---|---:|---:|"
    auxiliary = results.auxiliary or ()
    for facts in stored_facts(record):
        kind = record["tasks"][facts.name]["kind"] + (", auxiliary" if facts.name in auxiliary else "")
        yield f"| {_cell(facts.name)} | {kind} | {_cell(facts.target.describe())} | {facts.rows:,} | {facts.dev_rows:,} |"


def _evaluation(record: RunRecord, results: Results) -> Iterator[str]:
    rows = [
        (task, in_words(split), metric, estimate)
        for task, splits in results.tasks.items()
        for split, metrics in splits.items()
        for metric, estimate in metrics.items()
        if len(estimate.sets) != 1  # it repeats the set that selects checkpoints
    ]
    if not rows:
        yield "No task has dev rows, so nothing was measured."
        return
    yield "| task | split | metric | value | 95 % interval | rows |\n|---|---|---|---:|---|---:|"
    for task, split, metric, estimate in rows:
        interval = "-" if estimate.interval == "none" else f"{estimate.low:.4f} to {estimate.high:.4f}"
        yield f"| {_cell(task)} | {split} | {metric} | {estimate.value:.4f} | {interval} | {estimate.n:,} |"
    yield "\nIntervals are those of redrawn rows; they do not contain what another seed of training would change."
    if record["score"] is not None:
        yield (
            f"The weights are those of step {record['step']} of {record['steps']}, chosen by these dev rows (`{record['select_by']}`), so "
            "that metrics on them are optimistic."
        )


def _use(run: Path, name: str, record: RunRecord) -> str:
    task, facts = next(iter(record["tasks"].items()))
    text = '["a text"]' if len(facts["text"]) == 1 else '[("a text", "another one")]'
    lines = [
        f"```python\nimport mtlcli\n\npredictor = mtlcli.load({name!r})  # the folder of this page",
        f"print(predictor.predict({text}, task={task!r}))\n```\nOr on the command line: `mtl predict {name} --task {task} texts.txt`.",
    ]
    if record["encoder_alone"] is None:
        lines.append(
            "`encoder/` alone loads in transformers (`AutoModel.from_pretrained`) and in sentence-transformers."
        )
    else:
        lines.append(f"`encoder/` alone does not give the features of this model: {record['encoder_alone']}")
    if (run / ONNX).is_dir():
        lines.append("`onnx/` has graphs for onnxruntime.")
    return "\n".join(lines)


def _training(run: Path, record: RunRecord, results: Results) -> Iterator[str]:
    config = record["config"]
    names = {key: config[key]["name"] for key in ("architecture", "scheduler", "balancer") if config.get(key)}
    regularizer = config.get("gradient_regularizer")
    more = {"gradient regularizer": regularizer["name"]} if regularizer else {}
    yield f"encoder {_encoder(config['encoder']['name'])}, pooling {record['pooling']}, at most {record['max_length']} tokens"
    yield ", ".join(f"{key} {value}" for key, value in (names | more).items())
    if results.steps:
        yield f"{results.steps:,} steps" + (f" in {results.seconds / 60:.1f} minutes" if results.seconds else "")
    if (run / ENVIRONMENT).is_file():
        environment = read_environment(run)
        versions = ", ".join(f"{package} {version}" for package, version in environment.versions.items())
        yield f"mtlcli {environment.mtlcli}, Python {environment.python}, {versions}; on {environment.device}, seed {environment.seed}"


def _encoder(name: str) -> str:
    return str(without_folders(name))


def _plain_recipe(record: RunRecord) -> dict[str, Any]:
    """Return the configuration without folders, and without keys that are not set."""
    values = without_folders(record["config"])
    return {key: _set(value) for key, value in values.items() if value is not None}


def _set(value: Any) -> Any:
    """Return a section without its keys that are null."""
    if isinstance(value, dict):
        return {key: _set(below) for key, below in value.items() if below is not None}
    return value


def _data(record: RunRecord) -> Iterator[str]:
    files = [*_files(record["config"])]
    if not files:
        yield "The rows are those of the built-in tasks or of `data` in the recipe."
        return
    yield "| task | split | file | sha256 |\n|---|---|---|---|"
    for task, split, file in files:
        path = Path(file)
        try:
            # The card of an old run is written without its data, which may have been moved or deleted.
            digest = sha256(path) if path.is_file() else "(the file was not there when this page was written)"
        except OSError:
            digest = "(the file could not be read)"
        yield f"| {_cell(task)} | {split} | {_cell(PurePath(file).name)} | {digest} |"


def _files(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield task, split and file of all rows that come from files."""
    for task, section in config["tasks"].items():
        for split in ("train", "dev", "test"):
            rows = section.get(split)
            sets = rows if isinstance(rows, dict) else {"": rows}
            for part, value in sets.items():
                file = value.get("file") if isinstance(value, dict) else value
                # Paths of a resolved configuration are absolute; another text, such as `10%`, names no file.
                if isinstance(file, str) and Path(file).is_absolute():
                    yield task, f"{split}.{part}" if part else split, file


def _cell(text: str) -> str:
    """Return text that is safe in a cell of a table."""
    # Line breaks and pipes would end the cell, and `<` could begin a tag.
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
