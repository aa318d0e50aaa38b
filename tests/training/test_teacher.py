"""Teachers: what a finished run says of the training rows, kept by the content of both."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mtlcli import registry
from mtlcli.config.schema import TaskConfig
from mtlcli.data.splits import LoadedTask, load_task
from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.inference.predictor import open_run
from mtlcli.runs.ensemble import choose, write
from mtlcli.tasks.targets import Arrays, Classes, Ragged, Score
from mtlcli.training.teacher import teacher_predictions
from trained import TASKS, other, trained

CPU = torch.device("cpu")


def loaded(name: str, **more) -> tuple[LoadedTask, TaskFacts]:
    """A task of the shared files, as a run that is about to be trained has it."""
    files = trained().parent / "files"
    config = TaskConfig(name=TASKS[name], train=str(files / f"{name}-train.tsv"), **more)
    task = registry.load("tasks", TASKS[name], "test")(name)
    found = load_task(name, config, task, data=None, sample=False, seed=1)
    return found, TaskFacts(name, len(found.splits["train"]), 1, found.target)


def taught(run: Path, name: str, cache: Path | None = None, said: list[str] | None = None, **more) -> Arrays:
    task, facts = loaded(name, **more)
    return teacher_predictions(
        str(run), task, facts, CPU, nullcontext(), cache, (said if said is not None else []).append
    )


def no_loading(monkeypatch) -> None:
    monkeypatch.setattr("mtlcli.runs.saved_model.load_run", lambda _: pytest.fail("the model was loaded"))


def test_a_teacher_says_of_the_training_rows_what_it_predicts_for_them():
    found = taught(trained(), "tone")
    predictor, _ = open_run(trained()).load(CPU)
    direct = predictor.on_split(0, loaded("tone")[0].splits["train"], CPU, nullcontext())
    assert list(found.fields) == ["probabilities"] and found["probabilities"].shape == (60, 2)
    np.testing.assert_allclose(found["probabilities"], direct["probabilities"], atol=1e-6)
    np.testing.assert_allclose(found["probabilities"].sum(1), 1, atol=1e-6)
    assert direct["index"].tolist() == found["probabilities"].argmax(1).tolist()


def test_scores_are_in_the_units_of_the_data():
    found = taught(trained(), "stars")
    assert list(found.fields) == ["value"] and found["value"].shape == (60,)
    assert found["value"].min() >= 3 and found["value"].max() <= 10  # words in a sentence


def test_rows_that_were_drawn_are_taught_as_among_all():
    some = loaded("near", max_rows=7)[0].splits["train"].ordinals
    np.testing.assert_allclose(
        taught(trained(), "near", max_rows=7)["value"], taught(trained(), "near")["value"][some], atol=1e-5
    )


def test_classes_are_in_the_order_of_the_run_that_learns():
    """The other run has the labels the other way round, and so may the one that learns."""
    ours, theirs = taught(other(), "tone"), taught(other(), "tone", labels=["good", "bad"])
    np.testing.assert_allclose(ours["probabilities"], theirs["probabilities"][:, ::-1], atol=1e-6)


def test_an_ensemble_teaches_the_mean_of_its_runs(tmp_path):
    write(choose([trained(), other()], {}), tmp_path / "ensemble")
    joined, a, b = (taught(run, "same") for run in (tmp_path / "ensemble", trained(), other()))
    mean = (a["probabilities"] + b["probabilities"]) / 2
    np.testing.assert_allclose(joined["probabilities"], mean, atol=1e-6)


def test_a_head_without_probabilities_teaches_its_class(monkeypatch):
    from mtlcli.inference.predictor import Predictor

    plain, predicted = Predictor.on_split, []

    def without(*arguments):
        predicted.append(plain(*arguments)["index"])
        return Ragged({"index": predicted[0]})

    monkeypatch.setattr(Predictor, "on_split", without)
    assert taught(trained(), "tone")["probabilities"].tolist() == np.eye(2)[predicted[0]].tolist()


# What is kept


@pytest.mark.parametrize("name", ["tone", "stars"])
def test_a_teacher_is_asked_once(tmp_path, monkeypatch, name):
    said: list[str] = []
    first = taught(trained(), name, tmp_path, said)
    assert said == [f"{trained()} (step 6): predicting the 60 training rows of {name} for distillation"]
    no_loading(monkeypatch)
    second = taught(trained(), name, tmp_path, said)
    assert len(said) == 1
    assert first.fields.keys() == second.fields.keys()
    for field, array in first.fields.items():
        assert array.dtype == second[field].dtype and np.array_equal(array, second[field])
    assert not list(tmp_path.glob(".writing-*"))


def test_other_rows_another_order_of_labels_and_another_teacher_are_asked_anew(tmp_path):
    said: list[str] = []
    taught(trained(), "tone", tmp_path, said)
    taught(trained(), "tone", tmp_path, said, max_rows=20)
    taught(trained(), "tone", tmp_path, said, labels=["good", "bad"])
    taught(other(), "tone", tmp_path, said)
    assert len(said) == len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:50], lambda raw: b"", lambda raw: b"nonsense", lambda raw: raw[:-90] + b"x" * 90]
)
def test_what_was_kept_and_is_damaged_is_made_again(tmp_path, damage):
    first = taught(trained(), "tone", tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    said: list[str] = []
    assert np.array_equal(taught(trained(), "tone", tmp_path, said)["probabilities"], first["probabilities"])
    assert len(said) == 1
    taught(trained(), "tone", tmp_path, said)
    assert len(said) == 1


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").touch()
    assert taught(trained(), "tone", tmp_path / "file")["probabilities"].shape == (60, 2)
    assert taught(trained(), "tone", None)["probabilities"].shape == (60, 2)


# What cannot teach


def wrong(run: Path, task: LoadedTask, facts: TaskFacts) -> str:
    with pytest.raises(MtlError) as caught:
        teacher_predictions(str(run), task, facts, CPU, nullcontext(), None)
    (line,) = caught.value.lines
    return line


def test_a_teacher_without_the_task_names_those_it_has(monkeypatch):
    no_loading(monkeypatch)
    assert wrong(other(), *loaded("stars")) == f'{other()}: no task "stars"; there are: near, same, tone'
    assert "there is no such run folder" in wrong(other() / "none", *loaded("stars"))


def test_a_teacher_of_other_labels_or_of_scores_is_refused(monkeypatch):
    no_loading(monkeypatch)
    task, facts = loaded("tone")
    assert wrong(trained(), task, replace(facts, target=Classes.named("bad", "good", "middling"))) == (
        f"{trained()}: its task tone predicts the labels bad, good instead of the labels bad, good, middling; a teacher must "
        "predict the same as this run"
    )
    assert "the labels bad, good instead of a score" in wrong(trained(), task, replace(facts, target=Score(0.0, 5.0)))


def test_a_teacher_of_single_texts_does_not_teach_pairs(monkeypatch):
    no_loading(monkeypatch)
    task, facts = loaded("same")
    assert wrong(trained(), task, replace(facts, name="tone")) == (
        f"{trained()}: its task tone reads 1 text per row, but the task of this run reads 2; use another teacher"
    )
