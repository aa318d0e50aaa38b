"""Weights that are never trained are written once: every checkpoint has them, as one file on the disk."""

import json

import pytest
import torch
from safetensors.torch import load_file

from mtlcli.runs import checkpoint
from mtlcli.runs.folder import claim
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up
from small import small_config, write_files

FROZEN = "frozen.safetensors"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"))


def config_of(files, **sections):
    return small_config(files, architecture="lora", training={"steps": 4, "save_every": 1, "keep_last": 3}, **sections)


def run_in(folder, config, stop_after=None):
    with claim(folder, resume=folder.exists()) as place:
        saved = place.checkpoint
        run = set_up(config, encoder_from=None if saved is None else saved.folder / "encoder")
        steps = iter(range(1, 100))
        for _event in train(run, place, stop=lambda: stop_after is not None and next(steps) >= stop_after):
            pass
    return run


def test_checkpoints_share_the_weights_of_a_frozen_encoder(files, tmp_path):
    run = run_in(tmp_path / "run", config_of(files))
    places = [tmp_path / "run" / "checkpoints" / f"step-{step}" for step in (2, 3, 4)]
    assert len({(place / FROZEN).stat().st_ino for place in places}) == 1
    for place in places:
        assert checkpoint.damage(place) is None
        learned, frozen = load_file(place / "model.safetensors"), load_file(place / FROZEN)
        assert {name for name in learned if name.startswith("architecture.encoder.")} == set()
        assert all(name.startswith("architecture.encoder.") for name in frozen)
    weights = checkpoint.Checkpoint(places[-1], 4).weights()
    assert weights.keys() == run.model.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in run.model.state_dict().items())


def test_a_resumed_run_is_the_unbroken_one_and_needs_no_file_of_the_first_process(files, tmp_path):
    config = config_of(files)
    run_in(tmp_path / "whole", config)
    run_in(tmp_path / "broken", config, stop_after=2)
    run_in(tmp_path / "broken", config)
    names = ("encoder/model.safetensors", "heads.safetensors", "metrics.jsonl", "checkpoints/step-4/model.safetensors")
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name


def test_an_encoder_that_a_stage_trains_is_written_every_time(files, tmp_path):
    stages = {"name": "stages", "stages": [{"steps": 2, "freeze": ["embeddings"]}, {"steps": 2}]}
    config = small_config(files, scheduler=stages, training={"steps": 4, "save_every": 1})
    run_in(tmp_path / "run", config)
    assert list((tmp_path / "run").rglob(FROZEN)) == []


def save(folder, step, value, digests):
    parts = {"model": {"a": torch.tensor([float(step)])}, "frozen": {"b": torch.full((50,), value)}}
    return checkpoint.save(folder, step, parts, {}, lambda scratch: None, digests)


def test_a_damaged_older_file_is_not_taken_over(tmp_path):
    digests = {}
    first = save(tmp_path, 1, 1.0, digests)
    (first / FROZEN).write_bytes(b"x" * (first / FROZEN).stat().st_size)
    second = save(tmp_path, 2, 1.0, digests)
    assert checkpoint.damage(second) is None and checkpoint.damage(first) is not None
    assert checkpoint.latest(tmp_path)[0].weights()["b"].tolist() == [1.0] * 50


def test_a_new_process_writes_its_own_and_links_need_a_file_system_that_has_them(tmp_path, monkeypatch):
    first, second = save(tmp_path, 1, 1.0, {}), save(tmp_path, 2, 2.0, digests := {})
    assert (first / FROZEN).stat().st_ino != (second / FROZEN).stat().st_ino

    def refused(*_):
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refused)
    third = save(tmp_path, 3, 2.0, digests)
    assert (third / FROZEN).stat().st_ino != (second / FROZEN).stat().st_ino
    assert json.loads((third / "manifest.json").read_text())[FROZEN] == digests[FROZEN]
    assert checkpoint.damage(third) is None
