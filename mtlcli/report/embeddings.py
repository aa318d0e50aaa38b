"""Encodings of dev rows before and after training, in two dimensions.

Before is the encoder as the run found it: the run is prepared once more from its configuration, so its data must be there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mtlcli.data.batches import by_length, collate
from mtlcli.data.tokens import TokenizedSplit, cache_folder
from mtlcli.facts import seed_for
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.runs.record import read_record, stored_config
from mtlcli.runs.saved_model import load_run
from mtlcli.training.setup import set_up


@dataclass(frozen=True)
class Cloud:
    """Dev rows of a task as points: `when` is before or after, `method` PCA or t-SNE; groups number the `names`."""

    task: str
    when: str
    method: str
    places: list[tuple[float, float]]
    groups: list[int]
    names: list[str]


def clouds(folder: Path, most: int) -> tuple[list[Cloud], str]:
    """The clouds of a run's tasks, and a sentence on how they were made. Raises MtlError where its data is not there."""
    config = stored_config(read_record(folder)).model_copy(deep=True)
    # The page can be made on a machine without the device of the run.
    config.training.device, config.training.precision = "cpu", "fp32"
    before = set_up(config, cache=cache_folder())
    after, _ = load_run(folder)
    methods = ["PCA", "t-SNE"] if _has_tsne() else ["PCA"]
    projections = []
    for index, task in enumerate(before.facts):
        splits = before.selecting(task.name)
        if not splits or splits[0].gold is None:
            continue
        tokenized = splits[0]
        # Seeded by the task, so that another report of the run shows the same rows.
        random = np.random.Generator(np.random.PCG64(seed_for(config.training.seed, "report", task.name)))
        rows = np.sort(random.permutation(len(tokenized))[:most])
        coloured = task.target.colour(splits[0].gold.take(rows))
        if coloured is None:
            continue
        groups, names = coloured[0].tolist(), coloured[1]
        pair = [_features(model, index, tokenized, rows) for model in (before.model, after.model)]
        for method in methods:
            for when, features in zip(("before", "after"), pair, strict=True):
                places = project(features, method, config.training.seed)
                projections.append(Cloud(task.name, when, method, places, groups, names))
    text = "One point for each row; of a pair that is encoded apart, the difference of its two encodings."
    if any(len(splits) > 1 for splits in before.dev.values()):
        text += " Of several dev sets, the first that selects checkpoints."
    if len(methods) == 1:
        text += " For t-SNE as well: pip install 'mtlcli[report]'."
    return projections, text


def project(features: np.ndarray, method: str, seed: int) -> list[tuple[float, float]]:
    """features (n, dim) -> n places: the two first principal components, or t-SNE (van der Maaten and Hinton, JMLR 2008)."""
    centred = features - features.mean(0)
    if method == "t-SNE" and len(features) > 5:
        from sklearn.manifold import TSNE

        # It has to be smaller than the number of rows.
        perplexity = min(30.0, (len(features) - 1) / 3)
        # scikit-learn accepts seeds of 32 bits.
        places = TSNE(2, perplexity=perplexity, init="pca", random_state=seed % 2**32).fit_transform(centred)
    else:
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        # The sign of a singular vector is arbitrary. Its largest entry is made positive, so that pictures can be
        # compared.
        axes = axes[:2] * np.sign(axes[:2][np.arange(len(axes[:2])), np.abs(axes[:2]).argmax(1)])[:, None]
        places = centred @ axes.T
    # A single row, or encodings of one dimension, have a single axis.
    if places.shape[1] < 2:
        places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
    return [(float(x), float(y)) for x, y in places]


def _has_tsne() -> bool:
    from importlib.util import find_spec

    return find_spec("sklearn") is not None


@torch.inference_mode()
def _features(model: MultiTaskModel, task: int, tokenized: TokenizedSplit, rows: np.ndarray) -> np.ndarray:
    """What the task's head reads of these rows (n, dim); of two encodings, the absolute difference."""
    model.eval()
    features = np.empty((len(rows), 0), dtype=np.float32)
    for part in _batches(tokenized, rows):
        batch = collate(tokenized, task, rows[part])
        pooled = model.pooled(task, model.hidden(task, model.inputs(task, batch)), batch.mask).float()
        if batch.sides == 2:
            # The absolute difference does not depend on the order of the texts.
            pooled = (pooled[: len(part)] - pooled[len(part) :]).abs()
        if features.shape[1] == 0:
            features = np.empty((len(rows), pooled.shape[1]), dtype=np.float32)
        # Batches are sorted by length, so results are put back in the order of `rows`.
        features[part] = pooled.cpu().numpy()
    return features


def _batches(tokenized: TokenizedSplit, rows: np.ndarray) -> Iterator[np.ndarray]:
    yield from by_length(tokenized.lengths()[rows])
