"""Multiple negatives ranking on classes: Henderson et al. 2017, arXiv:1705.00652; Mgbahurike, Mlauzi and Ocran 2024, section 3.4."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from mtlcli.errors import MtlError
from mtlcli.heads.base import EncoderOutput, Head, HeadFacts
from mtlcli.heads.rank_scores import decoded
from mtlcli.tasks.items import Items
from mtlcli.tasks.targets import UNSEEN, Classes, Distributions, Ragged, Ranks, Tensors


class ClassContrastive(Head):
    """Pull texts of a class together and push classes apart, without a classifier: a first stage before other heads.

    A training batch is 2K texts of K classes: a_1 .. a_K, then b_1 .. b_K, one of each class. With normalized encodings A and B,
    the loss is the cross-entropy of each row of S = scale * A B^T (K, K) against the identity (Mgbahurike et al. 2024, section
    3.4; their mean over K rows is the mean of the losses here, where both texts of a pair have its loss). In any other batch, the
    first two texts of each class are a pair, and a text without partner costs nothing. The paper gives no scale; 20 is that of
    sentence-transformers.

    The head has no parameters. To measure how well the classes are separated, it predicts the class with the nearest centroid: a
    running mean of the normalized encodings of each class, updated in training (ours; the paper shows a t-SNE plot instead). The
    loss on dev rows, which are not composed in pairs, is the cross-entropy of these predictions.

    Raises:
        MtlError: the task does not predict classes.
    """

    own_loss = True
    composition = "pairs-of-classes"
    coupling = "memory"

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
        if not isinstance(facts.task.target, Classes) or isinstance(facts.task.target, Distributions):
            raise MtlError(
                f'tasks.{facts.task.name}.head: "class-contrastive" contrasts classes; for a score or a distribution use linear'
            )
        self.scale, self.decay = scale, decay
        classes = facts.outputs
        # The initial directions count only until a class occurs: `observe` replaces them at the first batch with the
        # class.
        self.register_buffer("centroids", torch.randn(classes, facts.dim))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.int64))  # batches with a text of the class
        self.centroids: Tensor
        self.seen: Tensor

    def forward(self, encodings: tuple[EncoderOutput, ...]) -> Tensor:
        """Return the encoding, normalized (n, dim)."""
        return normalize(encodings[0].pooled.float(), dim=-1)

    def predicted(self, output: Tensor) -> Tensor:
        """Return scale * cosine to the centroid of each class as logits (n, classes)."""
        centroids = normalize(self.centroids.to(output.device), dim=-1)
        return self.scale * normalize(output.float(), dim=-1) @ centroids.T

    def loss(self, output: Tensor, gold: Tensors) -> Tensor:
        """Return the cross-entropy (n,) of a text's pair among the pairs of the batch in training, else that of the prediction."""
        output = output.float()
        if not self.training:
            return cross_entropy(self.predicted(output), gold["index"], reduction="none", ignore_index=UNSEEN)
        first, second = _pairs(gold["index"])
        # Texts without partner keep a loss of 0 that still depends on the output: backward needs a graph.
        losses = output.sum(-1) * 0.0
        if len(first):
            similarity = self.scale * output[first] @ output[second].T
            of_pairs = cross_entropy(similarity, torch.arange(len(first), device=output.device), reduction="none")
            losses = losses.index_put((torch.cat([first, second]),), of_pairs.repeat(2))
        return losses

    @torch.no_grad()
    def observe(self, output: Tensor, gold: Tensors) -> None:
        """Move the centroid of each class of the batch towards the mean of its texts."""
        # A running mean that has become NaN would stay NaN for the rest of the run.
        if not bool(torch.isfinite(output).all()):
            return
        of_class = (gold["index"][:, None] == torch.arange(len(self.seen), device=output.device)).float()
        counts = of_class.sum(0)
        means = of_class.T @ output.float() / counts.clamp(min=1)[:, None]
        # The n-th batch with a class has the weight 1 / n, at least 1 - decay: a plain mean of the first batches.
        keep = (self.seen / (self.seen + 1)).clamp(max=self.decay)
        keep = torch.where(counts > 0, keep, torch.ones_like(keep))[:, None]
        self.centroids.copy_(keep * self.centroids + (1 - keep) * means)
        self.seen += counts > 0

    def compared_by_cosine(self) -> nn.Sequential:
        """Return no layers: the encodings themselves are compared, with centroids of classes."""
        return nn.Sequential()

    def decode(self, output: Tensor, items: Items | None = None) -> Tensors:
        """Return the class of the nearest centroid, for ordered classes see `Ranks.decode`, and the softmax over all of them."""
        probabilities = torch.softmax(self.predicted(output), dim=-1)
        if isinstance(self.facts.task.target, Ranks):
            return decoded(self.facts.task.target, probabilities)
        return Ragged({"index": probabilities.argmax(-1), "probabilities": probabilities})


def _pairs(index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the second text of every class that has two, as row numbers (K,) each, by class.

    Texts with an unseen label are no pair.
    """
    # Stable, so that the rows of a class stay in the order of the batch and its pair does not depend on the sorting
    # algorithm.
    order = torch.argsort(index, stable=True)
    by_class = index[order]
    starts = torch.ones_like(by_class, dtype=torch.bool)
    starts[1:] = by_class[1:] != by_class[:-1]
    follows = ~starts
    follows[1:] &= starts[:-1]  # the second of its class
    follows &= by_class != UNSEEN
    at = follows.nonzero().flatten()
    return order[at - 1], order[at]
