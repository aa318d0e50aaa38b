"""Every architecture from the command line: an ensemble of two seeds, its metrics, a report and predictions."""

import json

import pytest

from mtlcli.registry import FAMILIES
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up
from small import small_config, write_files

NAMES = sorted(FAMILIES["architectures"].built_in)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_seeds_are_averaged_measured_reported_and_used(files, tmp_path, mtl, name):
    for seed in (1, 2):
        config = small_config(files, architecture=name, training={"steps": 2, "seed": seed})
        list(train(set_up(config), tmp_path / f"run-{seed}"))
    runs, together = [tmp_path / "run-1", tmp_path / "run-2"], tmp_path / "both"
    assert mtl("ensemble", *runs, "--output", together).code == 0
    code, out, _ = mtl("eval", together, "--split", "dev", "--resamples", "20", "--json")
    assert code == 0 and set(json.loads(out)["tasks"]) == {"tone", "same", "near"}

    def probabilities(folder) -> dict[str, float]:
        code, out, error = mtl("predict", folder, "--task", "tone", "-q", stdin=b"the small cat sees\n")
        assert code == 0, error
        return json.loads(out)["tone"]["probabilities"]

    first, second, mean = map(probabilities, (*runs, together))
    assert mean == pytest.approx({label: (first[label] + second[label]) / 2 for label in first}, abs=2e-6)
    assert mtl("report", runs[0], "--output", tmp_path / "report.html").code == 0
    assert "<svg" in (tmp_path / "report.html").read_text(encoding="utf-8")
