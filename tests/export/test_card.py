"""Model cards: metadata that the Hub reads, a page without anything of the machine, and changes by hand that stay."""

import re

import pytest
from huggingface_hub import ModelCard

import mtlcli
from mtlcli.export.card import write_card
from mtlcli.export.paths import without_folders
from mtlcli.runs.card_file import CARD, is_unchanged
from mtlcli.runs.folder import remove_run
from small import small_values, write_files
from trained import copy_of, trained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps on three tasks."""
    place = tmp_path_factory.mktemp("card")
    values = small_values(write_files(place / "secret-folder")) | {"training": {"steps": 2, "device": "cpu"}}
    mtlcli.train(values, balancer="uncertainty+pcgrad", output=place / "my-run")
    return place / "my-run"


def test_a_run_ends_with_a_card_that_the_hub_reads(run):
    data = ModelCard.load(run / CARD).data
    assert (data.license, data.library_name, data.model_name) == ("other", "mtlcli", "my-run")
    assert data.tags == ["multi-task", "uncertainty", "pcgrad"]
    assert data.base_model is None
    tone, same, near = data.eval_results
    assert (tone.task_type, same.task_type, near.task_type) == (
        "text-classification", "text-classification", "sentence-similarity",
    )  # fmt: skip
    accuracy = mtlcli.evaluate(run)["tone"]["dev"]["accuracy"]
    assert (tone.dataset_name, tone.metric_type) == ("tone (dev, 20 rows)", "accuracy")
    assert tone.metric_value == pytest.approx(accuracy.value, abs=1e-6)
    assert tone.metric_args["interval"] == pytest.approx([accuracy.low, accuracy.high], abs=1e-6)


def test_the_page_has_tasks_metrics_recipe_and_data_without_folders(run):
    text = (run / CARD).read_text()
    assert "| tone | classification | one of bad, good | 40 | 20 |" in text
    assert re.search(r"\| near \| dev \| pearson \| -?0\.\d{4} \| -?0\.\d{4} to -?[01]\.\d{4} \| 14 \|", text)
    assert "balancer uncertainty, gradient regularizer pcgrad" in text
    assert "train: tone-train.tsv" in text and re.search(r"\| tone \| dev \| tone-dev.tsv \| [0-9a-f]{64} \|", text)
    assert "secret-folder" not in text and str(run.parent) not in text


def test_a_card_that_was_changed_by_hand_stays(run):
    before = (run / CARD).read_text()
    assert is_unchanged(run) and write_card(run)
    assert (run / CARD).read_text() == before
    (run / CARD).write_text(before.replace("license: other", "license: mit"))
    assert not is_unchanged(run) and not write_card(run)
    assert "license: mit" in (run / CARD).read_text()
    assert write_card(run, overwrite=True) and (run / CARD).read_text() == before


def test_a_card_goes_with_its_run_unless_it_was_changed(tmp_path):
    first, second = copy_of(trained(), tmp_path / "a"), copy_of(trained(), tmp_path / "b")
    with (second / CARD).open("a") as file:
        file.write("mine\n")
    assert (remove_run(first), remove_run(second)) == ([], [CARD])


def test_only_paths_lose_their_folders():
    values = {
        "encoder": {"name": "/home/me/model"},
        "data": "C:\\rows",
        "tasks": {"a": {"train": "/x/a.tsv", "labels": ["/s/b", "c"]}},
    }
    assert without_folders(values) == {
        "encoder": {"name": "model"}, "data": "rows", "tasks": {"a": {"train": "a.tsv", "labels": ["/s/b", "c"]}},
    }  # fmt: skip
    assert without_folders({"encoder": {"name": "org/model"}}) == {"encoder": {"name": "org/model"}}
