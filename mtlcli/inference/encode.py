"""Texts to vectors: the pooled features of a run, without heads."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import torch

from mtlcli.data.batches import by_length, collate
from mtlcli.data.tokenizer import Tokenizer
from mtlcli.data.tokens import TokenizedSplit
from mtlcli.errors import MtlError
from mtlcli.heads.pooling import pool
from mtlcli.inference.predict import BATCH_TOKENS, BATCH_TOKENS_ELSEWHERE, WINDOW, text_sequences
from mtlcli.runs.saved_model import SavedRun


def encode(
    run: SavedRun, texts: Sequence[str], *, device: torch.device, autocast: AbstractContextManager[object],
    task: int | None = None, tokens: int | None = None, batch_rows: int | None = None,
) -> np.ndarray:  # fmt: skip
    """Return the pooled encodings (n, dim) of n texts, float32.

    The architecture reads each text alone; its features at `encoder.layer` are pooled by `encoder.pooling`. With hard sharing and
    the last layer, the defaults, these are the vectors of `SentenceTransformer(run / "encoder").encode(texts)`.

    Args:
        task: index of the task whose features to return, where the architecture gives each task its own.

    Raises:
        MtlError: the architecture gives each task its own features, and no task is named.
    """
    section, model = run.config.encoder, run.model
    if task is None:
        if any(part.tasks is not None for part in model.architecture.parts().values()):
            raise MtlError(
                f"{run.folder}: the architecture {run.config.architecture.name} gives each task its own features; name one of the "
                f"tasks {', '.join(model.names)}"
            )
        task = 0
    tokenizer = Tokenizer(run.encoder.tokenizer, section.max_length)
    limit = tokens or BATCH_TOKENS.get(device.type, BATCH_TOKENS_ELSEWHERE)
    vectors = np.empty((len(texts), run.encoder.dim), dtype=np.float32)
    with torch.inference_mode(), autocast:
        # A window bounds the memory of the tokens.
        for start in range(0, len(texts), WINDOW):
            sequences = text_sequences(tokenizer, [(text,) for text in texts[start : start + WINDOW]])
            tokenized = TokenizedSplit((sequences,), tokenizer.pad)
            # limit // 8 bounds the rows of very short texts.
            for rows in by_length(tokenized.lengths(), tokens=limit, rows=batch_rows or limit // 8):
                batch = collate(tokenized, task, rows).to(device)
                # Hidden states of all layers take memory, so they are kept only for a layer other than the last.
                inputs = replace(model.inputs(task, batch), all_layers=section.layer != -1)
                hidden = model.hidden(task, inputs)
                states = hidden.last if section.layer == -1 else hidden.layers[section.layer]
                # Batches are sorted by length: indexing by row number restores the order of the texts.
                vectors[start + rows] = pool(states, batch.mask, section.pooling).float().cpu().numpy()
    return vectors
