"""Texts to vectors: the pooled output of a run's encoder, without heads."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch

from mtlcli.architectures.base import Inputs, run_encoder
from mtlcli.data.batches import by_length, collate
from mtlcli.data.tokenizer import Tokenizer
from mtlcli.data.tokens import TokenizedSplit
from mtlcli.heads.pooling import pool
from mtlcli.inference.predict import BATCH_TOKENS, BATCH_TOKENS_ELSEWHERE, WINDOW, text_sequences
from mtlcli.runs.saved_model import SavedRun


def encode(
    run: SavedRun, texts: Sequence[str], *, device: torch.device, autocast: AbstractContextManager[object],
    tokens: int | None = None, batch_rows: int | None = None,
) -> np.ndarray:  # fmt: skip
    """Return the pooled encodings (n, dim) of n texts, float32.

    The encoder in `encoder/` reads each text alone; its hidden states at `encoder.layer` are pooled by `encoder.pooling`. For the
    last layer, the default, these are the vectors of `SentenceTransformer(run / "encoder").encode(texts)`; sentence-transformers
    always pools the last layer.
    """
    section = run.config.encoder
    encoder = run.model.architecture.encoder
    tokenizer = Tokenizer(run.encoder.tokenizer, section.max_length)
    limit = tokens or BATCH_TOKENS.get(device.type, BATCH_TOKENS_ELSEWHERE)
    vectors = np.empty((len(texts), run.encoder.dim), dtype=np.float32)
    with torch.inference_mode(), autocast:
        # A window bounds the memory of the tokens.
        for start in range(0, len(texts), WINDOW):
            sequences = text_sequences(tokenizer, [(text,) for text in texts[start : start + WINDOW]])
            tokenized = TokenizedSplit((sequences,), tokenizer.pad)
            for rows in by_length(tokenized.lengths(), tokens=limit, rows=batch_rows or limit // 8):
                batch = collate(tokenized, 0, rows).to(device)
                hidden = run_encoder(
                    encoder, Inputs(batch.tokens, batch.mask, batch.types, all_layers=section.layer != -1)
                )
                states = hidden.last if section.layer == -1 else hidden.layers[section.layer]
                vectors[start + rows] = pool(states, batch.mask, section.pooling).float().cpu().numpy()
    return vectors
