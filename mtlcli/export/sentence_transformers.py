"""A task's encoder as a folder for sentence-transformers, with the layers through which its head compares texts."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from mtlcli.errors import MtlError, one_of
from mtlcli.export.encoder import named
from mtlcli.export.folder import check_output, replace_folder, write_manifest
from mtlcli.runs.saved_model import SavedRun, write_encoder

MODULES = "modules.json"
CONTENT = "an encoder"
OLD_NAME = "sentence_transformers.models.Dense"
"""Name of the module before version 6, which later versions read, too."""

README = """# {task}: vectors of texts

Written by mtlcli {version} from a run: its encoder{dense}, for sentence-transformers.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/of/this/folder")
vectors = model.encode(["a text", "another one"])
print(model.similarity(vectors[0], vectors[1]))
```
{meaning}"""


def export_sentence_transformers(saved: SavedRun, task: int | None, folder: Path, *, overwrite: bool = False) -> str:
    """Write the encoder of a task, its pooling, and the layers through which its head compares texts.

    Args:
        saved: the run.
        task: index of the task; None for the only one whose head compares texts by their cosine.
        folder: folder to write.
        overwrite: whether to replace an earlier export.

    Returns:
        The name of the task.

    Raises:
        MtlError: sentence-transformers has no modules for the task, several tasks could be meant, or the folder cannot be written.
    """
    check_output(folder, MODULES, CONTENT, overwrite=overwrite)
    if task is None:
        task = _only_task(saved)
    if reason := why_not(saved, task):
        raise MtlError(f"{saved.folder}: {saved.facts[task].name} {reason}")
    with named(saved):
        merged = saved.model.architecture.merged(task)
    section, layers = saved.config.encoder, saved.model.head(task).compared_by_cosine()

    def write(place: Path) -> None:
        write_encoder(place, replace(saved.encoder, model=merged), section.pooling, section.max_length)
        _write_dense(place, [] if layers is None else [*layers])
        # `similarity` then compares vectors as the task's head does.
        config = json.dumps({"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"}, indent=1)
        (place / "config_sentence_transformers.json").write_text(config, encoding="utf-8")
        facts = {"format": "sentence-transformers", "task": saved.facts[task].name}
        (place / "README.md").write_text(_readme(saved, task, has_dense=bool(layers)), encoding="utf-8")
        write_manifest(place, saved.folder, facts)

    replace_folder(folder, MODULES, CONTENT, write, overwrite=overwrite)
    return saved.facts[task].name


def why_not(saved: SavedRun, task: int) -> str:
    """Return why sentence-transformers cannot hold a task, as the end of a sentence; "" if it can."""
    name = saved.facts[task].name
    if saved.model.head(task).compared_by_cosine() is None:
        return (
            f"has no form for sentence-transformers, because its head {saved.config.head_of(name).name} does not compare texts by their "
            "cosine; use --format onnx for its predictions, or --format encoder for its encoder alone"
        )
    if saved.model.layer_of(task) != -1:
        return (
            f"reads layer {saved.model.layer_of(task)} of the encoder, and sentence-transformers always reads the last; use "
            "--format onnx"
        )
    return ""


def _only_task(saved: SavedRun) -> int:
    possible = [task for task in range(len(saved.facts)) if not why_not(saved, task)]
    if len(possible) > 1:
        names = one_of(saved.facts[task].name for task in possible)
        raise MtlError(
            f"{saved.folder}: several tasks compare texts by their cosine; name one of them with --task: {names}"
        )
    if not possible:
        raise MtlError(
            *(f"{saved.folder}: {facts.name} {why_not(saved, task)}" for task, facts in enumerate(saved.facts))
        )
    return possible[0]


def _write_dense(folder: Path, layers: Sequence[nn.Module]) -> None:
    """Write linear layers with their activations as modules after the pooling; dropout is of no effect there."""
    modules = json.loads((folder / MODULES).read_text(encoding="utf-8"))
    steps = [layer for layer in layers if not isinstance(layer, nn.Dropout)]
    for index, linear in enumerate(steps):
        if not isinstance(linear, nn.Linear):
            continue
        # A Dense module holds one linear layer and the activation after it.
        following = steps[index + 1] if index + 1 < len(steps) else nn.Identity()
        activation = nn.Identity() if isinstance(following, nn.Linear) else following
        # After Transformer and Pooling, which `write_encoder` lists.
        number = len(modules)
        place = folder / f"{number}_Dense"
        place.mkdir()
        config = {
            "in_features": linear.in_features, "out_features": linear.out_features, "bias": linear.bias is not None,
            "activation_function": f"{type(activation).__module__}.{type(activation).__qualname__}",
        }  # fmt: skip
        (place / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        tensors = {f"linear.{key}": tensor.detach().cpu().contiguous() for key, tensor in linear.state_dict().items()}
        save_file(tensors, place / "model.safetensors")
        modules.append({"idx": number, "name": str(number), "path": place.name, "type": OLD_NAME})
    (folder / MODULES).write_text(json.dumps(modules, indent=1), encoding="utf-8")


def _readme(saved: SavedRun, task: int, *, has_dense: bool) -> str:
    facts = saved.facts[task]
    meaning = ""
    if facts.target.bounds is not None:
        low, high = facts.target.bounds
        meaning = f"\nThe head of the task takes a cosine of 0 for the score {low:g} and a cosine of 1 for {high:g}, its range.\n"
    return README.format(
        task=facts.name, version=saved.record["mtlcli"], meaning=meaning,
        dense=" and the layers of its head" if has_dense else "",
    )  # fmt: skip
