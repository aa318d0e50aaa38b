"""Multiple negatives ranking on classes: Henderson et al. 2017, arXiv:1705.00652, as MMO 3.4 adapts it to sentiment classes."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from mtlcli.errors import MtlError
from mtlcli.heads.base import Decoded, EncoderOutput, Head, HeadFacts


class ClassContrastive(Head):
    """Pulls texts of a class together and pushes classes apart, without a classifier: a first stage before other heads.

    A training batch is 2K texts of K classes: a_1 .. a_K, then b_1 .. b_K, one of each class. With normalized encodings A and B,
    S = scale * A B^T (K, K) is held against the identity by cross-entropy over each row (MMO 3.4; its average over K rows is the
    mean of the losses here, each pair's standing at both of its texts). Any other batch is paired by the first two texts of each
    class; a text without partner costs nothing. MMO gives no number for the scale; 20 is that of sentence-transformers.

    Nothing is learned here. To tell how well the classes lie apart, the head predicts the class with the nearest centroid: a
    running mean of the normalized encodings of each class, updated in training (ours; MMO shows a t-SNE plot instead). The loss
    on dev rows, which are not composed in pairs, is the cross-entropy of these predictions.
    Raises MtlError for a task with scores.
    """

    composition = "pairs-of-classes"

    def __init__(
        self,
        facts: HeadFacts,
        *,
        scale: Annotated[float, Field(gt=0, description="factor on the cosines")] = 20.0,
        decay: Annotated[
            float, Field(ge=0, lt=1, description="of the running means; of few texts a plain mean")
        ] = 0.99,
    ) -> None:
        super().__init__(facts)
        if facts.task.labels is None:
            raise MtlError(
                f'tasks.{facts.task.name}.head: "class-contrastive" contrasts classes; for a score use linear or cosine'
            )
        self.scale, self.decay = scale, decay
        classes = len(facts.task.labels)
        self.register_buffer("centroids", normalize(torch.randn(classes, facts.dim), dim=-1))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.int64))  # batches with a text of the class
        self.centroids: Tensor
        self.seen: Tensor

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """One encoding -> the same, normalized (n, dim)."""
        return normalize(encodings[0].pooled.float(), dim=-1)

    def predicted(self, output: Tensor) -> Tensor:
        """scale * cosine to the centroid of each class: logits (n, classes)."""
        centroids = normalize(self.centroids.to(output.device), dim=-1)
        return self.scale * normalize(output.float(), dim=-1) @ centroids.T

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """In training, the cross-entropy of a text's pair among the pairs of the batch; else that of the prediction (n,)."""
        output = output.float()
        if not self.training:
            return cross_entropy(self.predicted(output), targets, reduction="none")
        first, second = _pairs(targets)
        found = output.sum(-1) * 0.0  # a text without partner
        if len(first):
            similarity = self.scale * output[first] @ output[second].T
            losses = cross_entropy(similarity, torch.arange(len(first), device=output.device), reduction="none")
            found = found.index_put((torch.cat([first, second]),), losses.repeat(2))
        return found

    @torch.no_grad()
    def observe(self, output: Tensor, targets: Tensor) -> None:
        """Moves the centroid of each class of the batch towards the mean of its texts."""
        if not bool(torch.isfinite(output).all()):
            return
        of_class = torch.nn.functional.one_hot(targets, len(self.seen)).float()
        counts = of_class.sum(0)
        means = of_class.T @ output.float() / counts.clamp(min=1)[:, None]
        keep = (self.seen / (self.seen + 1)).clamp(max=self.decay)
        keep = torch.where(counts > 0, keep, torch.ones_like(keep))[:, None]
        self.centroids.copy_(keep * self.centroids + (1 - keep) * means)
        self.seen += counts > 0

    def decode(self, output: Tensor) -> Decoded:
        """The class of the nearest centroid, and the softmax over all of them."""
        probabilities = torch.softmax(self.predicted(output), dim=-1)
        return Decoded(probabilities.argmax(-1), probabilities)


def _pairs(targets: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second text of every class that has two, as row numbers (K,) each, by class."""
    order = torch.argsort(targets, stable=True)
    by_class = targets[order]
    starts = torch.ones_like(by_class, dtype=torch.bool)
    starts[1:] = by_class[1:] != by_class[:-1]
    follows = ~starts
    follows[1:] &= starts[:-1]  # the second of its class
    at = follows.nonzero().flatten()
    return order[at - 1], order[at]
