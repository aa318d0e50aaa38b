"""Targets and runs without labels: what they learn from, and where they are left out."""

import json
import random

import pytest
import torch

from mtlcli.api import load
from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.errors import MtlError
from mtlcli.tasks.no_label import NoLabel
from mtlcli.testing import check_target
from mtlcli.training.compatibility import check_combination
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up

FILMS, SHOPS = "film actor scene plot drama".split(), "shoe price parcel size color".split()


def test_the_contract_holds():
    check_target(NoLabel())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, chance = tmp_path_factory.mktemp("domains"), random.Random(5)

    def row(words):
        label = chance.choice(["good", "bad"])
        return " ".join([*chance.choices(words, k=5), label]), label

    for split, count in (("train", 64), ("dev", 32)):
        rows = [row(FILMS) for _ in range(count)]
        (folder / f"films-{split}.tsv").write_text("text\tlabel\n" + "".join(f"{t}\t{label}\n" for t, label in rows))
    (folder / "shops.tsv").write_text("text\n" + "".join(f"{row(SHOPS)[0]}\n" for _ in range(64)))
    return folder


def config(files, **sections):
    values = {
        "tasks": {
            "films": {"kind": "classification", "train": str(files / "films-train.tsv"), "dev": str(files / "films-dev.tsv")},
            "shops": {"kind": "unlabeled", "train": str(files / "shops.tsv")},
        },
        "encoder": {"name": "tiny", "dim": 16, "layers": 1, "attention_heads": 2, "intermediate": 16, "vocabulary": 100},
        "architecture": {"name": "domain-adversarial", "domains": {"films": ["films"], "shops": ["shops"]}, "hidden": 0},
        "training": {"steps": 4, "steps_per_epoch": 4, "batch_size": 16, "device": "cpu"},
    }  # fmt: skip
    for key, value in sections.items():
        adds = isinstance(values.get(key), dict) and isinstance(value, dict)
        values[key] = {**values[key], **value} if adds else value
    return resolve([Layer(values)])


def steps(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "step"]


def test_texts_without_labels_are_learned_from_and_not_counted(files, tmp_path):
    checked = config(files)
    assert checked.tasks["shops"].auxiliary
    *_, last = train(set_up(checked), tmp_path / "run")
    assert list(last.results) == ["films"]
    first = steps(tmp_path / "run")[0]
    assert first["train/shops/loss"] == 0.0
    assert 0.5 < first["train/shops/added"] < 0.9  # near log 2
    run = load(tmp_path / "run")
    assert run.predict(["a film"], task="films")[0].label in ("good", "bad")


@pytest.mark.slow
def test_the_discriminator_finds_the_domain_unless_the_encoder_hides_it(files, tmp_path):
    means = []
    for name, weight in (("seen", 0.0), ("hidden", 20.0)):
        architecture = {"weight": weight, "schedule": "constant", "lr": 0.01}
        changed = config(files, architecture=architecture, training={"steps": 40}, optimizer={"lr": 3e-3})
        list(train(set_up(changed), tmp_path / name))
        right = [line["architecture/discriminator_accuracy"] for line in steps(tmp_path / name)[20:]]
        means.append(sum(right) / len(right))
    assert means[0] > 0.9 and means[1] < means[0] - 0.1


def test_what_learns_nothing_is_refused_before_data_is_read(files):
    with pytest.raises(
        MtlError, match=r'tasks\.shops: has no labels, and the architecture "hard-sharing" adds no loss'
    ):
        check_combination(config(files, architecture="hard-sharing"))


def test_labels_of_a_task_without_labels_are_refused(files):
    with pytest.raises(MtlError, match=r"tasks\.shops\.label: this kind of task reads no labels"):
        set_up(
            config(files, tasks={"shops": {"kind": "unlabeled", "train": str(files / "shops.tsv"), "label": "text"}})
        )
    alone = {"films": {"kind": "unlabeled", "train": str(files / "shops.tsv")}}
    with pytest.raises(MtlError, match="no task of the run has labels; add one that has"):
        check_combination(config(files, tasks={**alone, "shops": alone["films"]}))


def test_a_batch_has_a_unit_for_each_row():
    target = NoLabel()
    gold = target.examples(3)
    assert target.units(gold).tolist() == [1.0, 1.0, 1.0]
    assert target.divergence(torch.zeros(3, 0), torch.zeros(3, 0)).tolist() == [0.0, 0.0, 0.0]
