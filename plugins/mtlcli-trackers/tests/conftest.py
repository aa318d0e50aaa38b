"""A small run for each tracker, and no account, network or database of the machine."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtlcli.training.events import Notice, Stepped
from mtlcli.training.run import configure_from, open_training, run_training

Train = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """train(tracker, ..., stop_after=5, resume=True) runs 8 steps into runs/demo and returns the warnings."""
    chance = random.Random(5)
    for split, count in (("train", 40), ("dev", 20)):
        rows = [f"{' '.join(chance.choices('abcdefgh', k=5))}\t{chance.choice(['good', 'bad'])}" for _ in range(count)]
        (tmp_path / f"{split}.tsv").write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    values: dict[str, Any] = {
        # A name that MLflow does not take as it is.
        "tasks": {"tone@home": {"kind": "classification", **{s: str(tmp_path / f"{s}.tsv") for s in ("train", "dev")}}},
        "encoder": {
            "name": "tiny",
            "dim": 16,
            "layers": 1,
            "attention_heads": 2,
            "intermediate": 16,
            "vocabulary": 100,
        },
        "training": {"steps": 8, "steps_per_epoch": 4, "batch_size": 8, "save_every": 4, "device": "cpu"},
    }

    def call(
        *trackers: dict[str, Any], stop_after: int | None = None, resume: bool = False, folder: str = "demo"
    ) -> list[str]:
        source = None if resume else values | {"trackers": list(trackers)}
        opened = open_training(configure_from(source), tmp_path / "runs" / folder, resume=resume)
        warnings = []
        events = run_training(opened)
        for event in events:
            if isinstance(event, Notice) and event.is_warning:
                warnings.append(event.text)
            if isinstance(event, Stepped) and event.step == stop_after:
                break
        events.close()
        return warnings

    return call
