"""Hierarchical and adversarial architectures in runs: one task alone, frozen encoders, rates, and orders that cannot be."""

import pytest
import torch

from mtlcli.errors import MtlError
from mtlcli.model.frozen import compute_features
from mtlcli.training.compatibility import check_combination
from mtlcli.training.passes import TaskLoss
from mtlcli.training.setup import set_up
from small import small_config, write_files

NAMES = ("feature-pipeline", "signal-pipeline", "interactive", "cyclic", "adversarial", "domain-adversarial")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"))


def one_step(run):
    step = [TaskLoss(task, (source.next(),)) for task, source in enumerate(run.train)]
    return run.engine.run(step)


@pytest.mark.parametrize("name", NAMES)
def test_one_task_alone_works(files, name):
    config = small_config(files, architecture=name)
    for task in ("same", "near"):
        del config.tasks[task]
    run = set_up(config)
    assert one_step(run).losses.isfinite().all()


@pytest.mark.parametrize("name", ["feature-pipeline", "signal-pipeline", "interactive", "cyclic"])
def test_the_features_of_cached_states_are_those_of_fresh_ones(files, name):
    run = set_up(small_config(files, architecture=name))
    model = run.model
    model.freeze(("encoder",))
    for module in model.architecture.children():
        if module is not model.architecture.encoder:
            for parameter in module.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
    model.eval()
    for task, source in enumerate(run.train):
        batch = source.next()
        cached = compute_features(model, task, source.tokenized, run.device, run.autocast).hidden(batch)
        with torch.no_grad():
            output = model.output(task, batch, model.features(task, batch, cached))
            torch.testing.assert_close(output, model(task, batch), rtol=1e-4, atol=1e-5)


def test_modules_learn_at_the_rate_of_heads_unless_another_is_set(files):
    def rates(**options):
        run = set_up(
            small_config(
                files, architecture={"name": "feature-pipeline", **options}, optimizer={"lr": 1e-4, "head_lr": 5e-4}
            )
        )
        names = {id(p): name for name, p in run.model.named_parameters()}
        groups = run.optimizer.param_groups
        return {names[id(p)]: group["peak_lr"] for group in groups for p in group["params"]}

    mix = "architecture.mix.for_same.weight"
    assert rates()[mix] == 5e-4 and rates(lr=2e-3)[mix] == 2e-3
    assert rates()["architecture.encoder.embeddings.word_embeddings.weight"] == 1e-4


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"name": "feature-pipeline", "order": ["near", "tone"]}, r"order: the head of near cannot run .* put it last"),
        ({"name": "interactive", "order": ["tone", "near"]}, r"order: the head of near cannot run .* leave it out"),
        ({"name": "feature-pipeline", "order": ["tone", "film"]}, r'order: no task "film" in this run'),
        ({"name": "signal-pipeline", "source": "near"}, r"source: near gives no probabilities"),
        ({"name": "signal-pipeline", "form": "weights"}, r"form: weights need a source that tags words"),
        ({"name": "domain-adversarial", "domains": {"a": ["tone"]}}, r"domains: expected two or more domains"),
    ],
)
def test_what_cannot_be_is_refused_before_data_is_read(tmp_path, architecture, message):
    with pytest.raises(MtlError, match=rf"architecture\.{message}"):
        check_combination(small_config(tmp_path, architecture=architecture))


def test_the_plan_says_who_reads_whom(files):
    notes = set_up(small_config(files, architecture="feature-pipeline")).plan.notes
    assert "in this architecture same reads tone; near reads tone, same" in notes
