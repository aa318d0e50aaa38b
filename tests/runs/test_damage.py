"""Single bits that flip in the files of a run: one line that names the file, never a traceback, never another model."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from mtlcli.errors import MtlError
from mtlcli.inference.predictor import open_run
from mtlcli.report import sections
from mtlcli.report.run_files import RunFiles
from mtlcli.runs import ensemble
from mtlcli.runs.environment import read_environment
from mtlcli.runs.plan import read_plan
from mtlcli.runs.results import read_results
from mtlcli.runs.saved_model import load_run
from mtlcli.runs.seeds import Group, read_group, write_group
from mtlcli.studies.results import Study, TaskMetric, read_study, write_study
from trained import copy_of, other, trained

FLIPS = 150


@pytest.fixture
def run(tmp_path) -> Path:
    """A copy of a finished run that may be damaged."""
    return copy_of(trained(), tmp_path)


def read_after_flips(path: Path, read: Callable[[], object]) -> int:
    """Flip single bits of a file, one at a time, and read it. Return how many were refused, with one line that names the file;
    the others must have changed no value, such as a space that became another blank."""
    whole, chance, refused = path.read_bytes(), random.Random(5), 0
    expected = json.loads(whole)
    for position in chance.sample(range(8 * len(whole)), min(FLIPS, 8 * len(whole))):
        raw = bytearray(whole)
        raw[position // 8] ^= 1 << position % 8
        path.write_bytes(raw)
        try:
            read()
        except MtlError as error:
            assert len(error.lines) == 1 and "\n" not in error.lines[0]
            assert str(path) in error.lines[0]
            refused += 1
        else:
            assert json.loads(bytes(raw)) == expected
    path.write_bytes(whole)
    read()
    return refused


def test_bits_of_run_json(run):
    assert read_after_flips(run / "run.json", lambda: open_run(run)) > 0.7 * FLIPS


def test_bits_of_results_json(run):
    assert read_after_flips(run / "results.json", lambda: read_results(run)) > 0.5 * FLIPS


def test_bits_of_plan_json(run):
    assert read_after_flips(run / "plan.json", lambda: read_plan(run)) > 0.5 * FLIPS


def test_bits_of_environment_json(run):
    assert read_after_flips(run / "environment.json", lambda: read_environment(run)) > 0.5 * FLIPS


def test_bits_of_seeds_json(tmp_path):
    write_group(Group(tmp_path, (1, 2, 3)))
    assert read_after_flips(tmp_path / "seeds.json", lambda: read_group(tmp_path)) > 0.5 * FLIPS


def test_bits_of_ensemble_json(tmp_path):
    folder = tmp_path / "ensemble"
    ensemble.write(ensemble.choose([trained(), other()], {}), folder)
    assert read_after_flips(folder / "ensemble.json", lambda: open_run(folder)) > 0.5 * FLIPS


def test_bits_of_study_json(tmp_path):
    study = Study(4, 2, "mean", {"tone": TaskMetric("accuracy", True)}, {"sample": True}, "cpu")
    write_study(study, tmp_path)
    assert read_after_flips(tmp_path / "study.json", lambda: read_study(tmp_path)) > 0.5 * FLIPS


def test_bits_of_the_weights_and_of_every_other_file_that_is_loaded(run):
    chance = random.Random(6)
    for path in [run / "heads.safetensors", *(path for path in (run / "encoder").rglob("*") if path.is_file())]:
        whole = path.read_bytes()
        raw = bytearray(whole)
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        path.write_bytes(raw)
        with pytest.raises(MtlError) as caught:
            load_run(run)
        assert caught.value.lines[0].startswith(f"{path}: is not as it was written (sha256 differs)")
        path.write_bytes(whole)


@pytest.mark.slow
def test_bits_of_the_log_and_the_predictions_end_in_no_traceback(run):
    chance = random.Random(7)
    for path in (run / "metrics.jsonl", run / "predictions" / "tone.dev.jsonl"):
        whole = path.read_bytes()
        for position in chance.sample(range(8 * len(whole)), 60):
            raw = bytearray(whole)
            raw[position // 8] ^= 1 << position % 8
            path.write_bytes(raw)
            try:
                sections.one_run(RunFiles(run), [], "").html()
            except MtlError as error:
                assert str(path) in error.lines[0]
        path.write_bytes(whole)
