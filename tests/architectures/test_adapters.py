"""Adapters by hand, and on encoders of many families."""

import pytest
import torch

from families import BERT, FAMILIES, TRACED, build
from mtlcli.architectures.adapters import Adapters, Bottleneck, Coupling
from mtlcli.architectures.base import ArchitectureFacts, Inputs, run_encoder
from mtlcli.errors import MtlError
from mtlcli.testing import RUN, check_architecture
from mtlcli.training.gradient_rows import _layer_of

TOKENS = Inputs(torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]), None, None, all_layers=True)


def made(name: str = "BertModel", *, tasks: int = 2, seed: int = 1, **options) -> Adapters:
    return Adapters(ArchitectureFacts(build(name, **FAMILIES[name]), RUN.tasks[:tasks], seed), **options).eval()


def bottleneck(down, up, **options) -> Bottleneck:
    module = Bottleneck(2, 1, activation="relu", **options)
    with torch.no_grad():
        module.down.weight.copy_(torch.tensor([down]))
        module.up.weight.copy_(torch.tensor([[value] for value in up]))
    return module


def test_the_change_of_a_bottleneck_is_that_of_the_formula():
    # D x = 1 + 2 = 3, U 3 = (6, -3): x + change = (7, -1)
    x = torch.tensor([1.0, 2.0])
    assert (x + bottleneck([1.0, 1.0], [2.0, -1.0])(x)).tolist() == [7.0, -1.0]
    assert bottleneck([1.0, 1.0], [2.0, -1.0], scale=4.0)(x).tolist() == [24.0, -12.0]
    assert bottleneck([-1.0, -1.0], [2.0, -1.0])(x).tolist() == [0.0, 0.0]  # relu


def test_a_coupling_is_inverted():
    torch.manual_seed(3)
    coupling, e = Coupling(8), torch.randn(3, 8)
    assert torch.equal(coupling(e), e)  # at start
    for parameter in coupling.parameters():
        torch.nn.init.normal_(parameter)
    assert not torch.allclose(coupling(e), e)
    torch.testing.assert_close(coupling.inverse(coupling(e)), e, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["houlsby", "pfeiffer", "parallel"])
@pytest.mark.parametrize("name", TRACED)
def test_before_step_1_every_hidden_state_is_the_encoder_s_and_then_none(name, form):
    architecture = made(name, form=form, invertible=True)
    plain = run_encoder(architecture.encoder, TOKENS)
    same = architecture(0, TOKENS)
    assert all(torch.equal(a, b) for a, b in zip(plain.layers, same.layers, strict=True))
    for parameter in architecture.tasks.of(0).parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    assert all(
        not torch.allclose(a, b, atol=1e-4)
        for a, b in zip(plain.layers[1:], architecture(0, TOKENS).layers[1:], strict=True)
    )
    assert torch.equal(architecture(1, TOKENS).last, plain.last)  # the other task's are untouched


def test_pfeiffer_uses_the_norm_of_a_post_norm_layer_twice():
    architecture = made(width=2)
    layer = architecture.encoder.encoder.layer[0].output
    bottlenecks = architecture.tasks.of(0)["ffn_out"]
    for parameter in bottlenecks.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    sums = []
    handle = layer.LayerNorm.register_forward_pre_hook(lambda _, given: sums.append(given[0]))
    hidden = architecture(0, TOKENS)
    handle.remove()
    u = sums[0]
    torch.testing.assert_close(hidden.layers[1], layer.LayerNorm(u + bottlenecks[0](layer.LayerNorm(u))))


def test_pfeiffer_in_a_pre_norm_layer_stands_on_its_output():
    architecture = made("GPT2Model", width=2)
    bottlenecks = architecture.tasks.of(0)["ffn_out"]
    torch.nn.init.normal_(bottlenecks[0].up.weight)
    block = run_encoder(architecture.encoder, TOKENS).layers[1]
    torch.testing.assert_close(architecture(0, TOKENS).layers[1], block + bottlenecks[0](block))


def test_parallel_reads_the_input_of_the_feed_forward_network():
    architecture = made(form="parallel", scale=4.0)
    bottlenecks, layer = architecture.tasks.of(0)["ffn_out"], architecture.encoder.encoder.layer[0]
    torch.nn.init.normal_(bottlenecks[0].up.weight)
    given = []
    handle = layer.intermediate.register_forward_pre_hook(lambda _, states: given.append(states[0]))
    hidden = architecture(0, TOKENS)
    handle.remove()
    h = given[0]
    dense = layer.output.dense(layer.intermediate(h)) + bottlenecks[0](h)
    torch.testing.assert_close(hidden.layers[1], layer.output.LayerNorm(dense + h))


@pytest.mark.parametrize(
    ("options", "per_layer"),
    # 2 d m + m + d with d = 16: m = 16 / 16 = 1 gives 49, m = 3 gives 115, m = 8 gives 280
    [({}, 49), ({"width": 3}, 115), ({"form": "houlsby"}, 98), ({"form": "parallel"}, 280)],
)
def test_the_parameters_are_those_of_the_formula(options, per_layer):
    architecture = made(**options)
    assert sum(p.numel() for p in architecture.tasks.of(0).parameters()) == 2 * per_layer
    assert sum(p.numel() for p in architecture.parameters() if p.requires_grad) == 2 * 2 * per_layer


def test_trained_norms_are_shared_and_learn_at_the_rate_of_the_adapters():
    architecture = made(norms="trained", lr=3e-4)
    trainable = [name for name, p in architecture.encoder.named_parameters() if p.requires_grad]
    assert trainable and all("LayerNorm" in name for name in trainable)
    assert architecture.parts()["encoder"].lr == 3e-4 and architecture.parts()["encoder"].tasks is None


def test_a_task_s_adapters_do_not_depend_on_the_tasks_before_it():
    facts = ArchitectureFacts(build("BertModel", **BERT), (RUN.tasks[1],), 1)
    alone, second = Adapters(facts), made(tasks=2)
    weights = [a.tasks["for_scores"]["ffn_out"][1].down.weight for a in (alone, second)]
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], made(tasks=2, seed=2).tasks["for_scores"]["ffn_out"][1].down.weight)


def test_the_language_s_adapter_stands_below_the_task_s():
    architecture = made("GPT2Model", tasks=3, languages={"grades": "en", "scores": "en"}, width=2)
    assert architecture.pass_of(0) != architecture.pass_of(1)
    assert architecture.parts()["of_languages.for_en"].tasks == (0, 1)
    task, language = architecture.tasks.of(0)["ffn_out"][0], architecture.of_languages["for_en"]["ffn_out"][0]
    torch.nn.init.normal_(language.up.weight)
    r = run_encoder(architecture.encoder, TOKENS).layers[1]
    torch.testing.assert_close(architecture(0, TOKENS).layers[1], r + task(r + language(r)))


def test_what_the_options_cannot_mean_is_refused():
    with pytest.raises(
        MtlError, match=r"architecture\.languages: found film; expected tasks of the run: grades, scores"
    ):
        made(languages={"film": "en"})
    with pytest.raises(MtlError, match='need the form "pfeiffer"'):
        made(languages={"grades": "en"}, form="houlsby")


@pytest.mark.parametrize("options", [{}, {"form": "houlsby"}, {"per": "both"}, {"invertible": True}])
def test_identity_holds_for_every_task(options):
    check_architecture(Adapters, identity=True, **options)


def test_gradients_are_compared_by_layer():
    names = [name for name, _ in made(per="shared").named_parameters() if name.startswith("shared")]
    assert {_layer_of(f"architecture.{name}") for name in names} == {
        "architecture.shared.ffn_out.0", "architecture.shared.ffn_out.1"
    }  # fmt: skip
