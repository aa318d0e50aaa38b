"""The contract of an encoder plugin: a name -> a folder with a model that transformers can load."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class EncoderFacts:
    """What an encoder plugin may use: the run's training texts, a folder to write into, the seed and the length limit."""

    texts: Callable[[], Iterator[str]]
    scratch: Path
    seed: int
    max_length: int


class EncoderSource(ABC):
    """Finds or makes a model folder: config.json, model.safetensors and a fast tokenizer (tokenizer.json).

    A plugin's constructor takes keyword-only options. The `default_*` attributes are what suits this encoder where the
    configuration says nothing: peak learning rates, epochs and rows per batch.
    """

    default_lr: ClassVar[float] = 5e-5
    default_head_lr: ClassVar[float | None] = None
    default_epochs: ClassVar[int] = 3

    @abstractmethod
    def folder(self, facts: EncoderFacts) -> Path:
        """The model folder. Raises MtlError when it cannot be had, with what to do."""
