"""The contract of an encoder plugin: from a name and options to a folder with a model that transformers can load."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class EncoderFacts:
    """What an encoder plugin may use: the training texts of the run, a scratch folder, the seed and the maximum length."""

    texts: Callable[[], Iterator[str]]
    scratch: Path
    seed: int
    max_length: int


class EncoderSource(ABC):
    """Provides a model folder: config.json, model.safetensors and a fast tokenizer (tokenizer.json).

    A plugin's constructor takes keyword-only options. `recommended` holds settings that suit this encoder, in the form of a
    recipe: `{"optimizer": {"lr": 1e-4}}`. They override the defaults; recipe and command line override them.
    """

    recommended: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @abstractmethod
    def folder(self, facts: EncoderFacts) -> Path:
        """Return the model folder. Raises MtlError, with what to do, if there is none."""
