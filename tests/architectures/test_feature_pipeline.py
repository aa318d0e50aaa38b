"""Pipelines of features by hand: label embeddings, cascades, and levels."""

import math

import pytest
import torch

from families import FAMILIES, TRACED, build
from mtlcli.architectures.base import ArchitectureFacts, HiddenStates, Inputs, run_encoder
from mtlcli.architectures.feature_pipeline import FeaturePipeline, Levels
from mtlcli.errors import MtlError
from mtlcli.testing import RUN, check_architecture

TOKENS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])


def made(name: str = "BertModel", *, tasks: int = 3, seed: int = 1, **options) -> FeaturePipeline:
    return FeaturePipeline(ArchitectureFacts(build(name, **FAMILIES[name]), RUN.tasks[:tasks], seed), **options).eval()


def inputs(answers) -> Inputs:
    """Inputs in which task s predicts answers[s]; it notes what its head was given."""
    read = []

    def answer(task, hidden):
        read.append((task, hidden.last))
        return answers[task]

    given = Inputs(TOKENS, None, None, all_layers=True, read=answer)
    object.__setattr__(given, "noted", read)
    return given


def test_label_embeddings_are_the_mean_under_the_predicted_probabilities():
    # logits (0, ln 3): p = (1/4, 3/4); E = ((1, 0), (0, 2)): y = (0.25, 1.5)
    architecture = made(label_width=2)
    table = architecture.labels.of(0)
    table.weight = torch.nn.Parameter(torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]))
    p = torch.softmax(torch.tensor([[0.0, math.log(3.0), -math.inf]] * 2), -1)
    torch.testing.assert_close(table(p), torch.tensor([[0.25, 1.5]] * 2))
    dim = architecture.encoder.config.hidden_size
    with torch.no_grad():
        architecture.mix.of(1).weight[:2, 2 * dim :] = torch.eye(2)
    hidden = run_encoder(architecture.encoder, inputs({}))
    change = architecture.features(1, hidden, inputs({0: p})).last - hidden.last
    torch.testing.assert_close(change[..., :2], torch.tensor([0.25, 1.5]).expand(2, 5, 2), rtol=0, atol=1e-6)
    assert not change[..., 2:].any()


def test_tags_reach_each_token_and_the_words_are_read_again():
    architecture = made(label_width=1, tasks=2)
    dim = architecture.encoder.config.hidden_size
    with torch.no_grad():
        architecture.labels.of(0).weight.copy_(torch.tensor([[1.0, 0.0, 0.0]]))
        architecture.mix.of(1).weight[0, 2 * dim] = 1.0
        architecture.mix.of(1).weight[1, dim] = 1.0
    tags = torch.rand(2, 5, 3)
    hidden = run_encoder(architecture.encoder, inputs({}))
    change = architecture.features(1, hidden, inputs({0: tags})).last - hidden.last
    torch.testing.assert_close(change[..., 0], tags[..., 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(change[..., 1], hidden.layers[0][..., 0], rtol=0, atol=1e-6)


def test_the_head_of_a_lower_task_reads_its_own_features():
    architecture = made(tasks=3, depths={"grades": 1})
    torch.nn.init.normal_(architecture.mix.of(1).bias)
    hidden, given = run_encoder(architecture.encoder, inputs({})), inputs({0: torch.rand(2, 3), 1: torch.rand(2, 1)})
    architecture.features(2, hidden, given)
    (first, level), (second, scores) = given.noted
    assert (first, second) == (0, 1)  # each head runs once, though two tasks read the first one
    torch.testing.assert_close(level, hidden.layers[1])
    torch.testing.assert_close(scores, hidden.last + architecture.mix.of(1).bias)


@pytest.mark.parametrize("detach", [False, True])
def test_a_higher_task_trains_the_heads_below_unless_they_are_detached(detach):
    architecture = made(tasks=2, detach=detach)
    torch.nn.init.normal_(architecture.mix.of(1).weight)
    p = torch.full((2, 3), 1 / 3, requires_grad=True)
    architecture.features(1, run_encoder(architecture.encoder, inputs({})), inputs({0: p})).last.sum().backward()
    assert (p.grad is None) == detach
    assert architecture.reads(1) == (() if detach else (0,)) and architecture.runs(1) == (0,)
    assert architecture.parts()["mix.for_grades"].tasks == ((0,) if detach else (0, 1))
    assert architecture.labels.of(0).weight.grad.any()


def test_a_cascade_adds_labels_and_words_to_the_states_of_the_task_below():
    architecture = made(form="cascade")
    modules = architecture.mix.of(1)
    with torch.no_grad():
        modules["label"].weight[0, 2] = 4.0
        modules["words"].weight[1, 0] = 1.0
    hidden, p = run_encoder(architecture.encoder, inputs({})), torch.tensor([[0.25, 0.25, 0.5]] * 2)
    change = architecture.features(1, hidden, inputs({0: p})).last - hidden.last
    torch.testing.assert_close(change[..., 0], torch.full((2, 5), 2.0), rtol=0, atol=1e-6)
    torch.testing.assert_close(change[..., 1], hidden.layers[0][..., 0], rtol=0, atol=1e-6)
    # The third task starts from the second one's states.
    third = architecture.features(2, hidden, inputs({0: p, 1: torch.zeros(2, 1)})).last
    torch.testing.assert_close(third - hidden.last, change)


def test_levels_start_with_their_weight_and_are_weighed_by_tokens():
    low, mid, own = (torch.full((1, 2, 2), value) for value in (1.0, 2.0, 4.0))
    attention = Levels(2, "attention", 2)
    # 0.95 for the own level, 0.025 for each other one: 0.025 + 0.05 + 3.8
    torch.testing.assert_close(attention([low, mid, own]), torch.full((1, 2, 2), 3.875))
    torch.testing.assert_close(Levels(2, "gate", 2)([low, mid, own]), torch.full((1, 2, 2), 0.05 * 2 + 0.95 * 4))
    with torch.no_grad():
        attention.bias.zero_()
        attention.project.weight.copy_(torch.eye(2))
        attention.score.weight.copy_(torch.tensor([[1.0, 0.0]]))
    states = [torch.tensor([[[0.0, 0.0], [0.5, 0.0]]]), torch.zeros(1, 2, 2)]
    # token 0: equal scores; token 1: tanh 0.5 = 0.462117 against 0, so 0.613509 of the first level
    torch.testing.assert_close(attention(states)[0, :, 0], torch.tensor([0.0, 0.613509 * 0.5]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", TRACED)
@pytest.mark.parametrize("form", ["labels", "cascade"])
def test_before_step_1_every_task_has_the_states_of_the_encoder(name, form):
    architecture = made(name, form=form)
    given = inputs({0: torch.rand(2, 3), 1: torch.rand(2, 1)})
    plain = run_encoder(architecture.encoder, given)
    for task in range(3):
        assert torch.equal(architecture(task, given).last, plain.last)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        # d = 16, label width 5; tables (3 + 1) * 5; W of 0, 1, 2 lower tasks: 16 (32 + 5 n) + 16
        ({"label_width": 5}, 20 + 3 * (16 * 32 + 16) + 16 * 5 * 3),
        # W_res of two tasks, and 3 and 1 outputs of the tasks below
        ({"form": "cascade"}, 2 * 16 * 16 + 16 * (3 + 1)),
        ({"form": "fusion", "depths": {"grades": 1}}, 2 * (16 * 16 + 16 + 1)),
        ({"form": "fusion", "depths": {"grades": 1}, "combine": "gate"}, 2 * (2 * 16 * 16 + 16)),
    ],
)
def test_the_parameters_are_those_of_the_formula(options, count):
    architecture = made(**options)
    everything = sum(p.numel() for p in architecture.parameters())
    assert everything - sum(p.numel() for p in architecture.encoder.parameters()) == count


@pytest.mark.parametrize("options", [{}, {"detach": True}, {"form": "cascade"}, {"form": "cascade", "detach": True}])
def test_identity_and_ownership(options):
    check_architecture(FeaturePipeline, identity=True, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"depths": {"grades": 1}, "order": ["pairs", "grades"]},
        {"form": "fusion", "depths": {"grades": 1}},
        {"form": "fusion", "depths": {"grades": 1}, "combine": "gate"},
    ],
)
def test_ownership_where_levels_differ(options):
    check_architecture(FeaturePipeline, **options)


def test_a_level_of_a_pre_norm_encoder_gets_a_norm():
    architecture = made("GPT2Model", depths={"grades": 1})
    hidden = architecture(0, Inputs(TOKENS, None, None, all_layers=True))
    torch.testing.assert_close(hidden.last.mean(-1), torch.zeros(2, 5), rtol=0, atol=1e-5)
    assert not list(made(depths={"grades": 1}).norms.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": ["film"]}, r'architecture\.order: no task "film" in this run'),
        ({"order": ["grades", "pairs", "grades"]}, r'"grades" is listed twice'),
        ({"order": []}, "expected one or more tasks"),
        ({"depths": {"grades": 9}}, r"architecture\.depths: found 9 for grades; expected 0 \(embeddings\) to"),
        ({"depths": {"film": 1}}, r'architecture\.depths: no task "film"'),
        ({"form": "fusion"}, "all tasks have the same one; set depths, such as {grades: 1}"),
        ({"form": "cascade", "depths": {"grades": 1}}, "a cascade starts from the last layer"),
    ],
)
def test_what_the_options_cannot_mean_is_refused(options, message):
    with pytest.raises(MtlError, match=message):
        made(**options)


def test_a_head_that_cannot_run_on_other_texts_is_never_read():
    facts = ArchitectureFacts(build("BertModel", **FAMILIES["BertModel"]), RUN.tasks, 1, (True, False, True))
    architecture = FeaturePipeline(facts)
    assert architecture.lower == ((), (0,), (0,))
    with pytest.raises(
        MtlError, match=r"order: the head of scores cannot run on the texts of other tasks.*put it last"
    ):
        FeaturePipeline(facts, order=["grades", "scores", "pairs"])
    assert FeaturePipeline(facts, order=["pairs", "scores"]).lower == ((), (2,), ())
    assert isinstance(architecture.states(0, Inputs(TOKENS, None, None)), HiddenStates)
