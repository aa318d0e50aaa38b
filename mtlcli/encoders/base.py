"""The contract of an encoder plugin: a name -> a folder with a model that transformers can load."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class EncoderFacts:
    """What an encoder plugin may use: the run's training texts, a folder to write into, the seed and the length limit."""

    texts: Callable[[], Iterator[str]]
    scratch: Path
    seed: int
    max_length: int


class EncoderSource(ABC):
    """Finds or makes a model folder: config.json, model.safetensors and a fast tokenizer (tokenizer.json).

    A plugin's constructor takes keyword-only options. `recommended` is what suits this encoder where nobody says otherwise,
    as a recipe would write it: `{"optimizer": {"lr": 1e-4}}`. It stands above the defaults and below the recipe.
    """

    recommended: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @abstractmethod
    def folder(self, facts: EncoderFacts) -> Path:
        """The model folder. Raises MtlError when it cannot be had, with what to do."""
