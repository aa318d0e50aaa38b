"""What a frozen encoder makes of texts is made once and read in every pass; runs come out as they do without."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mtlcli.config.schema import Config
from mtlcli.data.batches import by_length, collate
from mtlcli.errors import MtlError
from mtlcli.model.frozen import compute_features, layers_read, size_of
from mtlcli.runs.folder import inspect_folder
from mtlcli.schedulers.base import Position, Stage
from mtlcli.schedulers.round_robin import RoundRobin
from mtlcli.training.events import Notice, Stepped
from mtlcli.training.loop import train
from mtlcli.training.setup import TrainingRun, set_up
from small import small_config, write_files

HEADS = {
    "tone": {"layer": -2},
    "same": {"encoding": "bi", "head": {"name": "pair-compare", "layers": [-1, 1], "hidden": [8]}},
    "near": {"encoding": "cross", "head": {"name": "linear"}},
}


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path / "data")


def frozen(
    files: Path, *, epochs: int = 3, memory: float = 2.0, freeze=("encoder",), more=(), regularizers=(), **stage
) -> Config:
    """The small run with tasks that read their encodings in different ways, and a stage that freezes."""
    stages = [*more, {"epochs": epochs, "freeze": list(freeze), **stage}]
    config = small_config(
        files, scheduler={"name": "stages", "stages": stages}, regularizers=list(regularizers),
        training={"steps": None, "steps_per_epoch": None, "batch_size": 8, "device": "cpu", "feature_memory": memory},
    )  # fmt: skip
    plain = config.plain()
    for name, section in HEADS.items():
        plain["tasks"][name] |= section
    return Config.model_validate(plain)


def encoder_passes(prepared: TrainingRun) -> list[int]:
    """Counts the encoder's passes from now on, in the one item of the list."""
    found = [0]
    prepared.model.architecture.encoder.register_forward_hook(lambda *_: found.__setitem__(0, found[0] + 1))
    return found


def run(config: Config, folder: Path, *, stop_after: int | None = None, resume: bool = False):
    """The prepared run, its events, and after each step: how many passes of the encoder there were, whose rows are kept."""
    found = inspect_folder(folder, resume=resume, overwrite=False).checkpoint
    prepared = set_up(config, encoder_from=found.folder / "encoder" if found else None)
    count, events, passes, kept = encoder_passes(prepared), [], [], []
    for event in train(prepared, folder, resume_from=found, stop=lambda: len(passes) == stop_after):
        events.append(event)
        if isinstance(event, Stepped):
            passes.append(count[0])
            kept.append([prepared.model.names[task] for task in prepared.kept.train])
    assert not prepared.kept.train and not prepared.kept.dev, "what was kept is let go"
    return prepared, events, passes, kept


def steps(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def numbers(line: dict) -> dict[str, float]:
    return {key: float(value) for key, value in line.items() if isinstance(value, int | float)}


def notices(events) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def test_kept_states_are_the_encoders_for_any_batch(files):
    prepared = set_up(frozen(files))
    model = prepared.model
    model.freeze(("encoder",))
    model.train()
    for task, name in enumerate(model.names):
        tokenized = prepared.train[task].tokenized
        kept = compute_features(model, task, tokenized, prepared.device, prepared.autocast)
        for rows in (np.array([3, 0, 11]), np.array([7]), by_length(tokenized.lengths())[0]):
            batch = collate(tokenized, task, rows)
            expected, found = model.hidden(task, model.inputs(task, batch)), kept.hidden(batch)
            real = batch.mask if batch.mask is not None else torch.ones_like(batch.tokens, dtype=torch.bool)
            torch.testing.assert_close(found.last[real], expected.last[real])
            assert len(found.layers) == len(expected.layers), name
            for layer in layers_read(model, task):
                torch.testing.assert_close(found.layers[layer][real], expected.layers[layer][real])
            torch.testing.assert_close(
                model.eval().output(task, batch, found),
                model.output(task, batch, expected),
            )
            model.train()


def test_a_head_that_may_read_every_layer_gets_every_layer(files):
    prepared = set_up(frozen(files))
    prepared.model.freeze(("encoder",))
    task = prepared.model.names.index("same")
    prepared.model.head(task).further_layers = ()
    assert layers_read(prepared.model, task) is None
    tokenized = prepared.train[task].tokenized
    kept = compute_features(prepared.model.train(), task, tokenized, prepared.device, prepared.autocast)
    assert [len(one) for one in kept.hidden(collate(tokenized, task, np.array([1, 2]))).layers] == [4, 4, 4]


def test_the_size_is_known_before(files):
    prepared = set_up(frozen(files))
    prepared.model.freeze(("encoder",))
    for task in range(3):
        tokenized = prepared.train[task].tokenized
        kept = compute_features(prepared.model, task, tokenized, prepared.device, prepared.autocast)
        held = {one.data_ptr(): one.numel() * one.element_size() for one in kept.states}
        assert size_of(prepared.model, task, tokenized, prepared.device, prepared.autocast) == sum(held.values())


def test_a_run_comes_out_the_same_and_reads_every_text_once(files, tmp_path):
    with_, events, passes, _ = run(frozen(files), tmp_path / "with")
    without, silent, again, _ = run(frozen(files, memory=0), tmp_path / "without")
    assert [text.split(":")[0] for text in notices(events)] == ["tone", "same", "near"] and not notices(silent)
    assert set(passes) == {passes[0]}, "no pass after the first step's preparation, not even for dev"
    assert again[-1] > again[0]
    for one, other in zip(steps(tmp_path / "with"), steps(tmp_path / "without"), strict=True):
        assert numbers(one) == pytest.approx(numbers(other), rel=1e-4, abs=1e-6, nan_ok=True)
    for (name, a), b in zip(with_.model.state_dict().items(), without.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("stop_after", [2, pytest.param(9, marks=pytest.mark.slow)])
def test_a_run_goes_on_bit_by_bit(files, tmp_path, stop_after):
    whole, *_ = run(frozen(files), tmp_path / "whole")
    run(frozen(files), tmp_path / "parts", stop_after=stop_after)
    parts, events, *_ = run(frozen(files), tmp_path / "parts", resume=True)
    assert sum("frozen" in text for text in notices(events)) == 3
    assert steps(tmp_path / "parts") == steps(tmp_path / "whole")
    for (name, a), b in zip(whole.model.state_dict().items(), parts.model.state_dict().values(), strict=True):
        assert a.equal(b), name


def test_what_does_not_fit_is_read_anew_and_said(files, tmp_path):
    _, events, passes, kept = run(frozen(files, memory=1e-4), tmp_path / "run")
    said = notices(events)
    assert len(said) == 3 and any("training.feature_memory" in text for text in said), said
    assert passes[-1] > passes[0]
    assert len(kept[-1]) == sum("once" in text for text in said) < 3


@pytest.mark.parametrize(
    "config",
    [
        {"freeze": ["embeddings", "layer.0"]},
        {"freeze": ["heads"]},
        {"epochs": 1},
        {"steps": 3, "epochs": None},
        {"epochs": 1, "more": [{"epochs": 3}]},
        {"epochs": 1, "more": [{"epochs": 1, "freeze": ["encoder"]}]},
        {"regularizers": [{"name": "bppo"}]},
    ],
    ids=[
        "parts of it",
        "the heads",
        "one pass",
        "a few steps",
        "one pass of four",
        "one pass twice",
        "with passes of its own",
    ],
)
def test_nothing_is_kept_where_it_would_not_pay_or_not_be_true(files, tmp_path, config):
    _, events, _, kept = run(frozen(files, **config), tmp_path / "run")
    assert not notices(events) and not any(kept)


def test_a_stage_keeps_its_own_tasks_features_of_the_weights_it_starts_from(files, tmp_path):
    before = {"tasks": ["tone"], "epochs": 2, "lr_factor": 3}
    config = frozen(files, more=[before], tasks=["same"], weights="best", epochs=2)
    prepared = set_up(config)
    task = prepared.model.names.index("same")
    first = len(prepared.train[prepared.model.names.index("tone")].tokenized) // 8 * 2  # steps of the first stage
    for event in train(prepared, tmp_path / "run"):
        if isinstance(event, Stepped):
            assert list(prepared.kept.train) == list(prepared.kept.dev) == ([task] if event.step > first else [])
        if isinstance(event, Stepped) and event.step == first + 2:
            batch = prepared.train[task].longest()
            found = prepared.kept.train[task].hidden(batch).last
            expected = prepared.model.hidden(task, prepared.model.inputs(task, batch)).last
            real = batch.mask if batch.mask is not None else torch.ones_like(batch.tokens, dtype=torch.bool)
            torch.testing.assert_close(found[real], expected[real])
            return
    pytest.fail("the second stage was not reached")


def test_the_encoder_learns_again_in_the_next_stage(files, tmp_path):
    first = {"epochs": 2, "freeze": ["encoder"]}
    config = frozen(files, more=[first], freeze=[], epochs=1)
    _, events, passes, kept = run(config, tmp_path / "run")
    assert len(notices(events)) == 3
    half = len(passes) * 2 // 3
    assert len(kept[half - 1]) == 3 and not kept[half]
    assert passes[half - 1] == passes[0] and passes[-1] > passes[half]


def test_a_task_with_nothing_to_learn_is_refused(files):
    plain = frozen(files).plain()
    plain["tasks"]["near"] |= {"encoding": "bi", "head": {"name": "cosine"}}
    with pytest.raises(
        MtlError, match=r"scheduler\.stages\.0\.freeze: no trainable parameter affects the loss of near; "
    ):
        set_up(Config.model_validate(plain))
    plain["scheduler"]["stages"][0]["tasks"] = ["tone", "same"]
    set_up(Config.model_validate(plain))


def test_a_task_that_reads_only_what_is_frozen_is_one_line(files, tmp_path):
    plain = frozen(files, freeze=["embeddings"]).plain()
    plain["tasks"]["near"] |= {"encoding": "bi", "head": {"name": "cosine"}, "layer": 0}
    with pytest.raises(MtlError, match="near: no trainable parameter affects its loss"):
        run(Config.model_validate(plain), tmp_path / "run")


class Thaw(RoundRobin):
    """Freezes the encoder for half of the run, all in one stage."""

    def stage(self, position: Position) -> Stage:
        frozen = ("encoder",) if position.step < position.total_steps // 2 else ()
        return Stage(0, position.total_steps, frozen=frozen)


def test_a_stage_may_thaw_what_it_froze(files, tmp_path):
    plain = frozen(files).plain()
    plain["scheduler"] = {"name": f"{__name__}:Thaw"}
    plain["training"] |= {"steps": 40, "steps_per_epoch": 40, "epochs": None}
    prepared = set_up(Config.model_validate(plain))
    before = [one.clone() for one in prepared.model.architecture.parameters()]
    for event in train(prepared, tmp_path / "run"):
        if isinstance(event, Stepped) and event.step in (20, 40):
            after = prepared.model.architecture.parameters()
            assert all(one.equal(other) for one, other in zip(before, after, strict=True)) == (event.step == 20)
            assert bool(prepared.kept.train) == (event.step == 20)


def test_a_stage_has_no_stages_of_its_own(files):
    inner = {"name": "stages", "stages": [{"epochs": 1}]}
    with pytest.raises(MtlError, match=r"scheduler\.stages\.0\.scheduler: stages cannot be nested"):
        set_up(frozen(files, scheduler=inner))
