"""Sluice networks and leaky units: towers that meet, by hand, in twelve encoders, and in runs."""

from pathlib import Path

import pytest
import torch
from torch import nn

from families import FAMILIES, build
from mtlcli.architectures.base import ArchitectureFacts, HiddenStates, Inputs, run_encoder
from mtlcli.architectures.leaky_units import LeakyUnit, LeakyUnits
from mtlcli.architectures.sluice import LayerMixture, Sluice, initial_weights
from mtlcli.architectures.towers import Towers
from mtlcli.errors import MtlError
from mtlcli.testing import RUN
from mtlcli.training.passes import TaskLoss
from mtlcli.training.plan import model_sizes
from mtlcli.training.setup import set_up
from small import small_config, write_files

TOKENS = Inputs(torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]), None, None, all_layers=True)
MASK = torch.tensor([[True] * 5, [True, True, True, False, False]])
REFUSED = {"AlbertModel", "MobileBertModel", "XLNetModel"}
KEPT = sorted(FAMILIES.keys() - REFUSED)


class Plain(Towers):
    """Towers that do not meet."""

    def features(self, task, hidden, inputs):
        return self.own(task, hidden)


def facts(name: str = "BertModel", tasks: int = 3) -> ArchitectureFacts:
    return ArchitectureFacts(build(name, **FAMILIES[name]), RUN.tasks[:tasks], 1)


def move(module: nn.Module, seed: int = 0) -> None:
    """Change weights, so that the copies differ."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def run(architecture: Towers, task: int, inputs: Inputs = TOKENS) -> HiddenStates:
    with torch.no_grad():
        return architecture.eval()(task, inputs)


# Towers


@pytest.mark.parametrize("layers", [None, 1])
@pytest.mark.parametrize("name", KEPT)
def test_towers_that_do_not_meet_are_encoders_of_their_own(name, layers):
    architecture = Plain(facts(name), layers).eval()
    move(architecture.others)
    inputs = Inputs(TOKENS.tokens, MASK, None, all_layers=True)
    first = 0 if layers is None else 1
    for task in range(3):
        hidden = run(architecture, task, inputs)
        alone = build(name, **FAMILIES[name])
        for index, block in enumerate(architecture.copied):
            alone.get_submodule(block).load_state_dict(architecture.copies(index)[task].state_dict())
        with torch.no_grad():
            expected = run_encoder(alone, inputs)
        for found, layer in zip(hidden.layers, expected.layers, strict=True):
            assert torch.allclose(found[MASK], layer[MASK], atol=1e-6)
        assert torch.equal(hidden.last, hidden.layers[-1])
    assert len(architecture.copied) == 2 - first


def test_towers_differ_once_their_layers_do():
    architecture = Plain(facts(), None)
    before = [run(architecture, task).last for task in range(3)]
    assert torch.equal(before[0], before[1]) and torch.equal(before[0], before[2])
    move(architecture.others)
    after = [run(architecture, task).last for task in range(3)]
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1], after[2], atol=1e-3)


@pytest.mark.parametrize("architecture", [Sluice, LeakyUnits])
def test_an_encoder_that_calls_one_layer_many_times_is_refused(architecture):
    with pytest.raises(MtlError, match="AlbertModel calls one layer at several depths"):
        architecture(facts("AlbertModel"), layers=1)


@pytest.mark.parametrize("architecture", [Sluice, LeakyUnits])
def test_more_layers_than_there_are_are_refused(architecture):
    with pytest.raises(MtlError, match=r"architecture.layers: found 3; expected at most 2, the layers of this encoder"):
        architecture(facts(), layers=3)


@pytest.mark.parametrize(("layers", "passes"), [(None, 3), (1, 2)])
def test_the_cost_counts_copied_layers_for_each_task(layers, passes):
    assert Plain(facts(), layers).encoder_passes() == passes


@pytest.mark.parametrize("architecture", [Sluice, LeakyUnits])
def test_all_tasks_share_one_pass_and_no_plain_encoder_has_the_features(architecture):
    made = architecture(facts())
    assert made.pass_of(0) == made.pass_of(1) == made.pass_of(2)
    with pytest.raises(MtlError, match="which no plain encoder can do"):
        made.merged(0)


# Sluice


def test_pieces_mix_across_tasks_and_subspaces():
    architecture = Sluice(facts(tasks=2), layers=1)
    rows = [[0.9, 0.05, 0.05, 0.0], [0.05, 0.9, 0.0, 0.05], [0.05, 0.0, 0.9, 0.05], [0.0, 0.05, 0.05, 0.9]]
    with torch.no_grad():
        architecture.alpha["1"].copy_(torch.tensor(rows))
    states = [torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 4.0]]])]
    first, second = architecture.meet(0, states)
    assert first.flatten().tolist() == pytest.approx([1.15, 2.05])
    assert second.flatten().tolist() == pytest.approx([2.95, 3.85])


@pytest.mark.parametrize(
    ("initial", "rows"),
    [
        ("aligned", [[0.9, 0, 0.1, 0], [0, 0.9, 0, 0.1], [0.1, 0, 0.9, 0], [0, 0.1, 0, 0.9]]),
        ("imbalanced", [[0.9 if i == j else 0.1 / 3 for j in range(4)] for i in range(4)]),
        ("balanced", [[0.25] * 4] * 4),
    ],
)
def test_alpha_begins_as_said(initial, rows):
    assert torch.allclose(initial_weights(2, 2, initial, 0.9), torch.tensor(rows))


def test_alpha_of_one_task_keeps_what_it_has():
    assert initial_weights(1, 2, "aligned", 0.9).tolist() == [[1, 0], [0, 1]]
    assert initial_weights(1, 1, "imbalanced", 0.9).tolist() == [[1]]


@pytest.mark.parametrize("name", KEPT)
def test_aligned_towers_begin_as_the_encoder(name):
    architecture = Sluice(facts(name))
    with torch.no_grad():
        for parameter in architecture.beta.parameters():
            parameter.copy_(torch.tensor([0.0, 1.0]) if len(parameter) == 2 else parameter)
        plain = run_encoder(architecture.encoder, TOKENS)
    for task in range(3):
        assert torch.allclose(run(architecture, task).last, plain.last, atol=1e-5)


def test_without_mixing_a_task_has_its_own_tower():
    architecture, apart = Sluice(facts(), own=1.0), Plain(facts(), None)
    move(architecture.others)
    apart.load_state_dict(architecture.state_dict(), strict=False)
    with torch.no_grad():
        for mixture in architecture.beta.values():
            mixture.weights.copy_(torch.tensor([0.0, 1.0]))
    for task in range(3):
        assert torch.equal(run(architecture, task).last, run(apart, task).last)


def test_what_one_tower_computes_reaches_the_others_through_alpha():
    architecture = Sluice(facts())
    before = run(architecture, 0).last
    move(architecture.others["for_pairs"])
    assert not torch.allclose(run(architecture, 0).last, before, atol=1e-3)


def test_beta_begins_near_the_last_layer_and_mixes_layers():
    mixture = LayerMixture(2, 3, norm=False)
    assert mixture.weights.tolist() == pytest.approx([0.05, 0.05, 0.9])
    layers = tuple(torch.tensor([[values]]) for values in ([1.0, 0.0], [0.0, 2.0], [1.0, 1.0]))
    assert mixture(layers).flatten().tolist() == pytest.approx([0.95, 1.0])
    assert LayerMixture(2, 1, norm=True).weights.tolist() == [1.0]


@pytest.mark.parametrize("name", ["BertModel", "GPT2Model"])
def test_the_penalty_is_the_mean_square_of_the_product_of_both_halves(name):
    architecture = Sluice(facts(name), layers=1)
    move(architecture.others)
    expected = 0.0
    for copy in architecture.copies(0):
        module = copy.get_submodule(architecture.outputs[0])
        weight = module.weight if isinstance(module, nn.Linear) else module.weight.T
        assert weight.shape == (16, weight.shape[1])
        expected += (weight[:8].T @ weight[8:]).square().mean().item()
    assert architecture.penalty().item() == pytest.approx(expected, rel=1e-5)


def test_the_penalty_is_added_in_training_alone_and_split_over_the_tasks():
    architecture = Sluice(facts(), orthogonality=0.5).train()
    hidden = architecture(1, TOKENS)
    assert hidden.extra is not None and hidden.extra.shape == (2,)
    assert hidden.extra[0].item() == pytest.approx(0.5 / 3 * architecture.penalty().item(), rel=1e-5)
    assert run(architecture, 1).extra is None
    assert Sluice(facts(), subspaces=1).train()(1, TOKENS).extra is None


def test_the_parameters_of_a_sluice_are_those_of_the_formula():
    architecture = Sluice(facts())
    layers = sum(p.numel() for p in architecture.encoder.encoder.layer.parameters())
    added = sum(p.numel() for p in architecture.parameters()) - sum(
        p.numel() for p in architecture.encoder.parameters()
    )
    assert added == 2 * layers + 2 * 6**2 + 3 * 2


# Leaky units


def unit() -> LeakyUnit:
    """A unit of width 1 with W_r = (1, 2), U = .5, W = 1, W_z = (1, 1) and no bias."""
    leaky = LeakyUnit(1)
    with torch.no_grad():
        for linear, values in (
            (leaky.reset, [1.0, 2.0]),
            (leaky.own, [0.5]),
            (leaky.other, [1.0]),
            (leaky.keep, [1.0, 1.0]),
        ):
            linear.weight.copy_(torch.tensor([values]))
        leaky.keep.bias.zero_()
    return leaky


@pytest.mark.parametrize(("own", "other", "value"), [(1.0, -1.0, 0.613516), (-1.0, 1.0, -0.386484)])
def test_a_unit_lets_in_what_its_gates_say(own, other, value):
    # r_12 = .268941, h~_12 = tanh(.5 - .268941) = .227033, z_12 = .5
    assert unit()(torch.tensor([own]), torch.tensor([other])).item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("divide", "value"),
    # z_13 = .817574, h~_13 = .735405: .951723 for the pair (1, 3)
    [("pairs", 0.782624), ("survey", (1 + 2 * 0.782624) / 3)],
)
def test_three_tasks_average_their_pairs(divide, value):
    architecture = LeakyUnits(facts(), divide=divide)
    features = [torch.tensor([1.0]), torch.tensor([-1.0]), torch.tensor([0.5])]
    assert architecture.leak(unit(), 0, features).item() == pytest.approx(value, abs=2e-6)


@pytest.mark.parametrize("options", [{}, {"layers": 1}, {"layers": 2, "units": "every"}])
def test_an_open_keep_gate_leaves_a_task_s_features(options):
    architecture = LeakyUnits(facts(), **options)
    with torch.no_grad():
        for leaky in architecture.units.values():
            leaky.keep.bias.fill_(100.0)
        plain = run_encoder(architecture.encoder, TOKENS).last
    for task in range(3):
        assert torch.allclose(run(architecture, task).last, plain, atol=1e-5)


@pytest.mark.parametrize(("units", "names"), [("last", ["1"]), ("every", ["0", "1"])])
def test_units_stand_after_every_copied_layer_or_the_last(units, names):
    architecture = LeakyUnits(facts(), layers=2, units=units)
    assert list(architecture.units) == names
    before = run(architecture, 0)
    move(architecture.others["for_pairs"])
    after = run(architecture, 0)
    # The states of layer 1 are those of the task alone unless a unit stands there.
    assert torch.equal(before.layers[1], after.layers[1]) == (units == "last")
    assert not torch.allclose(before.last, after.last, atol=1e-5)


def test_one_task_has_no_unit():
    architecture = LeakyUnits(facts(tasks=1), layers=1)
    with torch.no_grad():
        assert torch.equal(run(architecture, 0).last, run_encoder(architecture.encoder, TOKENS).last)


def test_the_parameters_of_leaky_units_are_those_of_the_formula():
    architecture = LeakyUnits(facts())
    added = sum(p.numel() for p in architecture.parameters()) - sum(
        p.numel() for p in architecture.encoder.parameters()
    )
    assert added == 6 * 16**2 + 16 + 3 * (2 * 16 * 4 + 4 + 16)


# Runs


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.mark.parametrize(
    "architecture",
    [{"name": "sluice"}, {"name": "sluice", "layers": 1}, {"name": "leaky-units", "layers": 2, "units": "every"}],
)
def test_methods_on_layers_perturbations_and_frozen_layers_work(files, architecture):
    methods = {"gradient_regularizer": {"name": "gradvac", "granularity": "layer"}, "regularizers": ["smart"]}
    prepared = set_up(small_config(files, architecture=architecture, balancer="uncertainty", **methods))
    model = prepared.model
    before = {name: p.clone() for name, p in model.architecture.named_parameters()}
    for _ in range(2):
        losses = prepared.engine.run([TaskLoss(task, (prepared.train[task].next(),)) for task in range(3)]).losses
        assert losses.isfinite().all()
        prepared.optimizer.step()
    changed = {name for name, p in model.architecture.named_parameters() if not torch.equal(p, before[name])}
    assert {name.split(".")[1] for name in changed if name.startswith("others.")} == {"for_same", "for_near"}
    cost = f"costs {model_sizes(model).encoder_passes:g} passes of the encoder"
    assert any(note.endswith(cost) for note in prepared.plan.notes)
    model.freeze(("layer.1",))
    frozen = {name.split("layer.")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {f"architecture.{at}." for at in ("encoder.encoder", "others.for_same", "others.for_near")}


@pytest.mark.parametrize("architecture", ["sluice", "leaky-units"])
def test_features_of_frozen_towers_are_cached(files, architecture):
    prepared = set_up(small_config(files, architecture={"name": architecture, "layers": 1}))
    prepared.model.freeze(("encoder", "alpha") if architecture == "sluice" else ("encoder",))
    assert prepared.model.states_are_frozen
