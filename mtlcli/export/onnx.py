"""Runs as ONNX graphs, each checked against PyTorch on real rows before it is written."""

import importlib
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer as FastTokenizer

from mtlcli import __version__
from mtlcli.data.tokenizer import Tokenizer
from mtlcli.errors import MtlError, one_of
from mtlcli.export.check import ROWS, Checked, check_graph, rows_of_tasks, some_rows, tokenized
from mtlcli.export.folder import check_output, replace_folder, write_manifest
from mtlcli.export.graph import Graph, graph_of
from mtlcli.export.int8 import SUFFIX, Int8, measure_int8, must_agree, quantize
from mtlcli.inference.predictor import open_run
from mtlcli.runs.names import MANIFEST
from mtlcli.runs.record import model_digest
from mtlcli.runs.saved_model import SavedRun, load_run

CONTENT = "ONNX graphs"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST_FILE = 2**31 - 2**24
"""Bytes of weights that one file of ONNX can hold, which is at most 2 GiB; larger ones are stored beside it."""
JOINT = "joint"
"""Name of the graph with several tasks."""


@dataclass(frozen=True)
class OnnxSettings:
    """Hold what to export and how.

    Attributes:
        tasks: names; empty for all that a graph can hold.
        data: folder with the files that the tasks expect, for the check, in place of the run's own.
        joint: one graph for all tasks that read one sequence a row in the same way, in place of one for each task.
        decoding: whether predictions are outputs; otherwise what the heads compute.
        overwrite: whether to replace an earlier export.
        int8: also write a graph with weights of 8 bits, see `int8.quantize`.
        reduce_range: give these weights 7 bits.
        force: keep it even if it decides otherwise too often.
    """

    tasks: tuple[str, ...] = ()
    data: str | None = None
    joint: bool = False
    decoding: bool = True
    overwrite: bool = False
    int8: bool = False
    reduce_range: bool = False
    force: bool = False


@dataclass(frozen=True)
class Exported:
    """Describe a graph that was written: its tasks, size in bytes, and how each task was compared with PyTorch."""

    name: str
    tasks: tuple[str, ...]
    size: int
    seconds: float
    checked: dict[str, Checked]
    int8: dict[str, Int8] = field(default_factory=dict)


def export_onnx(
    run: Path, folder: Path, settings: OnnxSettings, tell: Callable[[str], None] = lambda _: None
) -> list[Exported]:  # fmt: skip
    """Write a graph for each task, a JSON file with what its user has to know, and tokenizer.json.

    Every graph is compared with PyTorch on 200 dev rows of each of its tasks; nothing is written unless all agree.

    Args:
        run: folder of the run.
        folder: folder to write.
        settings: what to export.
        tell: receives a line about what is left out and what takes long.

    Raises:
        MtlError: a package is missing, a graph cannot hold a task, rows cannot be read, or a graph differs from PyTorch.
    """
    if settings.int8 and not settings.decoding:
        raise MtlError(
            "--int8: is measured by decisions, which a graph without decoding does not make; remove --no-decoding"
        )
    # Cheap checks come before loading the model.
    _check_packages()
    check_output(folder, MANIFEST, CONTENT, overwrite=settings.overwrite)
    saved, notes = load_run(run)
    for line in notes:
        tell(f"warning: {line}")
    tasks = chosen_tasks(saved, settings, tell)
    rows = rows_of_tasks(open_run(run), [saved.facts[task].name for task in tasks], settings.data)
    # Tracing is on the CPU in float32, and in evaluation mode.
    saved.model.to("cpu").float().eval()
    groups = [tuple(tasks)] if settings.joint else [(task,) for task in tasks]
    exported: list[Exported] = []

    def write(place: Path) -> None:
        exported.extend(_write_graph(saved, group, rows, settings, place, tell) for group in groups)
        tokenizer_file(saved).save(str(place / "tokenizer.json"))
        # Last, because it lists the digests of the other files.
        write_manifest(place, run, {"format": "onnx", "graphs": [graph.name for graph in exported]})

    replace_folder(folder, MANIFEST, CONTENT, write, overwrite=settings.overwrite)
    return exported


def chosen_tasks(saved: SavedRun, settings: OnnxSettings, tell: Callable[[str], None]) -> list[int]:
    """Return the indices of the tasks to export.

    Tasks that no graph can hold are left out, and `tell` receives a sentence about each, unless they are named.

    Raises:
        MtlError: a named task cannot be exported, or none of the run can.
    """
    wanted = [saved.task(name) for name in dict.fromkeys(settings.tasks)] or [*range(len(saved.facts))]
    reasons = {task: _why_not(saved, task, settings) for task in wanted}
    refusals = [f"{saved.folder}: {saved.facts[task].name} {reason}" for task, reason in reasons.items() if reason]
    tasks = [task for task, reason in reasons.items() if not reason]
    if refusals and (settings.tasks or not tasks):
        raise MtlError(*refusals)
    for line in refusals:
        tell(f"left out: {line}")
    return tasks


def _why_not(saved: SavedRun, task: int, settings: OnnxSettings) -> str:
    """Return why a graph cannot hold a task, as the end of a sentence; "" if it can."""
    name, head = saved.facts[task].name, saved.model.head(task)
    head_name = saved.config.head_of(name).name
    encoding = saved.record["tasks"][name]["encoding"]
    graph = graph_of(encoding)
    if reason := saved.model.architecture.why_no_graph:
        return f"cannot be exported: the architecture {saved.config.architecture.name} {reason}"
    if not head.supervised:
        return "predicts nothing, so there is nothing to export"
    if graph is None:
        return f"cannot be exported: no graph reads the encoding {encoding}"
    if settings.decoding and (reason := head.why_no_graph()):
        return (
            f"cannot be exported with its decoding: the head {head_name} is no graph, because {reason}; add --no-decoding to export "
            "what it computes before"
        )
    if settings.joint and encoding != "single":
        return "cannot be in a joint graph, which reads one text a row; export it without --joint"
    return ""


def _check_packages() -> None:
    missing = []
    for name in PACKAGES:
        try:
            # Imported, not only searched, so that a broken installation is reported before the export.
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise MtlError(f"--format onnx needs {one_of(missing)}: pip install 'mtlcli[onnx]'")


def _write_graph(
    saved: SavedRun, tasks: Sequence[int], rows: dict[str, Any], settings: OnnxSettings, place: Path, tell: Callable[[str], None]
) -> Exported:  # fmt: skip
    """Export one graph into a folder, check it, and write the JSON file beside it."""
    names = tuple(saved.facts[task].name for task in tasks)
    name = JOINT if settings.joint else names[0]
    graph = graph_for(saved, tasks, decoding=settings.decoding)
    tell(f"{name}: exporting, which takes 10 s to a minute")
    started = time.monotonic()
    path = place / f"{name}.onnx"
    export_graph(graph, path, f"{saved.folder}: {name}", {"mtlcli": __version__, "run": model_digest(saved.record)})
    seconds = time.monotonic() - started
    run = session(path)
    checked = {}
    for task, task_name in zip(tasks, names, strict=True):
        split = some_rows(rows[task_name].split, ROWS)
        checked[task_name] = check_graph(graph, run, task, split, tokenized(saved, split))
    int8: dict[str, Int8] = {}
    if settings.int8:
        tell(f"{name}: quantizing, and comparing on up to 2,000 rows")
        small = quantize(path, reduce_range=settings.reduce_range)
        for task, task_name in zip(tasks, names, strict=True):
            int8[task_name] = measure_int8(
                saved, graph, task, rows[task_name], run, session(small), small.stat().st_size
            )
            must_agree(task_name, int8[task_name], force=settings.force)
    # The graph, its form with 8 bits, and weights stored beside them.
    files = sorted(file for file in place.glob(f"{escape(name)}.*onnx*"))
    facts = facts_of(saved, graph, names) | {
        "files": [file.name for file in files],
        "checked": {task: result.as_json() for task, result in checked.items()},
        **({"int8": {task: result.as_json() for task, result in int8.items()}} if int8 else {}),
    }
    (place / f"{name}.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
    weights = sum(file.stat().st_size for file in files if not file.name.endswith(SUFFIX))
    return Exported(name, names, weights, seconds, checked, int8)


def graph_for(saved: SavedRun, tasks: Sequence[int], *, decoding: bool = True) -> Graph:
    """Return the graph of tasks that share an encoding.

    Raises:
        MtlError: its head cannot be part of it.
    """
    name = saved.facts[tasks[0]].name
    encoding = saved.record["tasks"][name]["encoding"]
    kind = graph_of(encoding)
    if kind is None:
        raise ValueError(f"no graph reads the encoding {encoding}")
    tokenizer = Tokenizer(saved.encoder.tokenizer, saved.config.encoder.max_length)
    # Encodings with two texts in one sequence.
    joins = encoding in ("cross", "choices", "spans")
    # Not an input if the tokenizer gives both texts the type 0.
    with_types = tokenizer.has_types and joins and any(tokenizer.template(2).of_texts)
    try:
        return kind(saved.model, tasks, decoded=decoding, with_types=with_types, has_types=tokenizer.has_types)
    except MtlError as error:
        raise MtlError(f"{saved.folder}: {name} cannot be exported: {error}") from error


def export_graph(graph: Graph, path: Path, where: str, metadata: dict[str, str]) -> None:
    """Trace a graph and write it as a file of ONNX, with axes of any size.

    Args:
        graph: the graph.
        path: the file; weights above 2 GiB are written beside it.
        where: begins the messages.
        metadata: stored in the file.

    Raises:
        MtlError: it cannot be traced, or an axis has a fixed size.
    """
    axes = graph.inputs
    # One Dim for each name, so that axes with the same name have the same size.
    sizes = {axis: torch.export.Dim(axis) for names in axes.values() for axis in names}
    shapes = tuple({number: sizes[axis] for number, axis in enumerate(names)} for names in axes.values())
    with _quiet(), torch.no_grad():
        try:
            # The shapes are nested once more, because `forward` takes all inputs as one tuple, *inputs.
            program: Any = torch.onnx.export(
                graph, graph.example(), dynamo=True, input_names=[*axes], output_names=[*graph.outputs], dynamic_shapes=(shapes,),
                verbose=False, external_data=False,
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            # The cause is PyTorch's error, whose first line names what cannot be traced.
            reason = str(error.__cause__ or error).strip().splitlines()
            raise MtlError(
                f"{where} cannot be exported: PyTorch cannot trace it ({reason[0] if reason else 'unknown'})"
            ) from error
        _fold_transposes(program.model)
        _forget_sources(program.model)
        program.model.metadata_props.update(metadata)
        size = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
        program.save(str(path), external_data=size > LARGEST_FILE)
    # Tracing can fix the size of an axis without an error; other sizes would fail only when the graph is used.
    for value in program.model.graph.inputs:
        if fixed := [axis for axis in value.shape if not isinstance(getattr(axis, "value", axis), str)]:
            raise MtlError(f"{where} cannot be exported: the graph reads {value.name} with an axis of {fixed[0]} alone")


def _fold_transposes(model: Any) -> None:
    """Store weights as they are multiplied, in place of transposing them whenever the graph runs.

    The exporter does so for weights with one use alone, not for those of an encoder that reads both texts of a pair; quantization
    leaves out what is not stored.
    """
    import onnx_ir

    graph = model.graph
    stored: dict[tuple[str, tuple[int, ...]], Any] = {}
    # A copy of the nodes, because some are removed in the loop.
    for node in list(graph):
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is None or weight.name not in graph.initializers or "perm" not in node.attributes:
            continue
        order = tuple(node.attributes["perm"].as_ints())
        key = (weight.name, order)
        # Once for all uses: both texts of a pair multiply by the same weight.
        if key not in stored:
            array = np.ascontiguousarray(weight.const_value.numpy().transpose(order))
            name = f"{weight.name}_{'_'.join(map(str, order))}"
            stored[key] = onnx_ir.val(name, const_value=onnx_ir.tensor(array, name=name))
            graph.register_initializer(stored[key])
        onnx_ir.convenience.replace_all_uses_with(node.outputs[0], stored[key])
        graph.remove(node, safe=True)
    for name in {name for name, _ in stored}:
        # Another node can use the weight as it is.
        if not graph.initializers[name].uses():
            del graph.initializers[name]


def _forget_sources(model: Any) -> None:
    """Remove the stack traces that PyTorch stores with every node: they hold paths of this machine, and take space."""
    for graph in (model.graph, *model.functions.values()):
        graph.metadata_props.clear()
        # `all_nodes` includes those of subgraphs, and not every class of graphs has it.
        for node in graph.all_nodes() if hasattr(graph, "all_nodes") else graph:
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()


def session(path: Path, threads: int = 0) -> Callable[..., list[Any]]:
    """Return the `run` of a session of onnxruntime on the CPU. With 0 threads it takes one for each core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Errors only.
    options.log_severity_level = 3
    run: Callable[..., list[Any]] = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    ).run
    return run


def facts_of(saved: SavedRun, graph: Graph, names: Sequence[str]) -> dict[str, Any]:
    """Return what a user of a graph has to know, as JSON values."""
    tokenizer = saved.encoder.tokenizer
    pad = tokenizer.pad_token_id or 0
    tasks: dict[str, dict[str, Any]] = {}
    for name in names:
        target = saved.facts[saved.task(name)].target
        tasks[name] = {"kind": saved.record["tasks"][name]["kind"], "predicts": target.describe()}
        if target.labels:
            tasks[name]["labels"] = list(target.labels)
        if target.bounds is not None:
            tasks[name]["range"] = list(target.bounds)
    # Of a graph with one task, the facts of the task stand beside the others.
    whole = {"task": names[0], **tasks[names[0]]} if len(names) == 1 else {"tasks": tasks}
    return {
        **whole,
        "encoding": saved.record["tasks"][names[0]]["encoding"],
        "inputs": {name: list(axes) for name, axes in graph.inputs.items()},
        "outputs": list(graph.outputs),
        "decoded": graph.decoded,
        "max_length": saved.config.encoder.max_length,
        "pad_id": pad,
        "pad_token": saved.encoder.tokenizer.convert_ids_to_tokens(pad),
        "run": model_digest(saved.record),
        "mtlcli": __version__,
    }


def tokenizer_file(saved: SavedRun) -> FastTokenizer:
    """Return the tokenizer of a run with its truncation and with padding to the longest text of a batch.

    Files of published tokenizers can hold others: that of all-MiniLM-L6-v2 pads every text to 128 tokens.
    """
    tokenizer = Tokenizer(saved.encoder.tokenizer, saved.config.encoder.max_length)
    # A copy, because the settings below must not change the run's own tokenizer.
    copy = FastTokenizer.from_str(tokenizer.backend.to_str())
    copy.enable_truncation(saved.config.encoder.max_length, strategy="longest_first")
    copy.enable_padding(pad_id=tokenizer.pad, pad_token=saved.encoder.tokenizer.convert_ids_to_tokens(tokenizer.pad))
    return copy


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the exporter says about packages and functions of its own that do not concern the graph."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
