"""Seconds of graphs of ONNX beside PyTorch, one thread: python benchmarks/onnx.py RUN [TASK ...], after `mtl export RUN --format onnx`.

Both run the same rows of dev, in batches of the same rows, in turn; printed are medians over rounds, and the ratio PyTorch / ONNX.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from mtlcli.data.batches import collate
from mtlcli.export.check import rows_of_tasks, some_rows, tokenized
from mtlcli.export.int8 import SUFFIX
from mtlcli.export.onnx import graph_for, session
from mtlcli.inference.predictor import open_run
from mtlcli.runs.saved_model import load_run


def seconds(work) -> float:
    """Return the duration of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Print a line for each task and batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("tasks", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    saved, _ = load_run(arguments.run)
    names = arguments.tasks or [facts.name for facts in saved.facts]
    rows = rows_of_tasks(open_run(arguments.run), names, None)
    for name in names:
        task = saved.task(name)
        graph = graph_for(saved, [task])
        split = some_rows(rows[name].split, arguments.rows)
        tokens = tokenized(saved, split)
        forms = {"onnx": session(arguments.run / "onnx" / f"{name}.onnx", threads=1)}
        if (small := arguments.run / "onnx" / f"{name}{SUFFIX}").is_file():
            forms["int8"] = session(small, threads=1)
        for size in (1, 32):
            batches = [
                collate(tokens, task, part) for part in np.array_split(np.arange(len(split)), len(split) // size)
            ]
            feeds = [graph.feed(batch) for batch in batches]

            def in_torch(batches=batches, task=task) -> None:
                with torch.inference_mode():
                    for batch in batches:
                        saved.model.decode(task, saved.model(task, batch), batch)

            times: dict[str, list[float]] = {}
            for number in range(arguments.rounds + 1):  # the first one warms up
                of_round = {"torch": seconds(in_torch)}
                for form, run in forms.items():
                    of_round[form] = seconds(
                        lambda run=run, feeds=feeds, graph=graph: [run([*graph.outputs], feed) for feed in feeds]
                    )
                if number:
                    for form, value in of_round.items():
                        times.setdefault(form, []).append(1000 * value / len(batches))
            medians = {form: statistics.median(values) for form, values in times.items()}
            ratios = ", ".join(
                f"{form} {medians[form]:.1f} ms ({medians['torch'] / medians[form]:.2f})" for form in forms
            )
            print(f"{name}, batches of {size}: torch {medians['torch']:.1f} ms, {ratios}", flush=True)


if __name__ == "__main__":
    main()
