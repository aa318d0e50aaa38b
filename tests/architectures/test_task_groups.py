"""Task groups: a trunk and branches, by hand, in the contract's encoder, and in runs."""

from pathlib import Path

import pytest
import torch

from families import FAMILIES, build
from mtlcli.architectures.base import ArchitectureFacts, Inputs, run_encoder
from mtlcli.architectures.hooks import replaced
from mtlcli.architectures.layers import trace_layers
from mtlcli.architectures.task_groups import TaskGroups
from mtlcli.errors import MtlError
from mtlcli.testing import RUN, check_architecture
from mtlcli.training.passes import TaskLoss
from mtlcli.training.plan import model_sizes
from mtlcli.training.setup import set_up
from small import small_config, write_files

TOKENS = Inputs(torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]), None, None, all_layers=True)
GROUPS = {"a": ["grades"], "b": ["scores", "pairs"]}
REFUSED = {"AlbertModel", "MobileBertModel", "XLNetModel"}


def made(name: str = "BertModel", layers: int = 2, **options) -> TaskGroups:
    key = {"DistilBertModel": "n_layers", "GPT2Model": "n_layer", "T5EncoderModel": "num_layers"}.get(
        name, "num_hidden_layers"
    )
    encoder = build(name, **FAMILIES[name] | {key: layers})
    return TaskGroups(ArchitectureFacts(encoder, RUN.tasks, 1), **options).eval()


def states(architecture: TaskGroups, task: int) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return architecture(task, TOKENS).layers


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - REFUSED))
def test_all_branches_begin_as_the_encoder_and_then_hold_their_own_layers(name):
    architecture = made(name, groups=GROUPS, depth=1)
    with torch.no_grad():
        plain = run_encoder(architecture.encoder, TOKENS).layers
    for task in range(3):
        assert all(torch.equal(a, b) for a, b in zip(plain, states(architecture, task), strict=True))
    with torch.no_grad():
        for parameter in architecture.branches.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    alone, others = states(architecture, 0), states(architecture, 1)
    # The trunk's layer is the same for all, the upper one the group's own; the run's encoder is that of b.
    assert torch.equal(alone[1], plain[1])
    assert not torch.allclose(alone[2], plain[2], atol=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(others, plain, strict=True))


@pytest.mark.parametrize("name", ["BertModel", "GPT2Model", "ModernBertModel", "DebertaV2Model"])
def test_the_encoder_of_a_group_is_a_plain_one(name):
    architecture = made(name, groups=GROUPS, depth=1)
    with torch.no_grad():
        for parameter in architecture.branches.parameters():
            parameter.mul_(1.1)
    states(architecture, 0)  # transformers' hooks for hidden states are there when the encoder is copied
    merged = architecture.merged(0)
    assert {key for key, _ in merged.named_parameters()} == {key for key, _ in architecture.encoder.named_parameters()}
    with torch.no_grad():
        layers = run_encoder(merged, TOKENS).layers
    assert all(torch.equal(a, b) for a, b in zip(layers, states(architecture, 0), strict=True))
    assert architecture.merged(1) is architecture.encoder
    with pytest.raises(MtlError, match="has one encoder per group of tasks; export one task"):
        architecture.merged(None)


def test_an_encoder_that_calls_one_layer_many_times_is_refused():
    with pytest.raises(MtlError, match="AlbertModel calls one layer at several depths"):
        made("AlbertModel")


@pytest.mark.parametrize(("layers", "depth"), [(1, 0), (2, 1), (3, 1), (4, 2), (6, 4)])
def test_the_trunk_is_all_but_two_layers_and_at_least_half(layers, depth):
    architecture = made(layers=layers)
    assert set(architecture.depths.values()) == {depth}
    block = sum(p.numel() for p in architecture.encoder.get_submodule("encoder.layer.0").parameters())
    # Without a group of several tasks the first one keeps the encoder's layers.
    assert sum(p.numel() for p in architecture.branches.parameters()) == 2 * (layers - depth) * block


def test_two_layers_of_minilm_have_the_parameters_of_the_docstring():
    with torch.device("meta"):
        options = FAMILIES["BertModel"] | {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
        block = build("BertModel", **options).encoder.layer[0]
    assert 2 * sum(p.numel() for p in block.parameters()) == 3_548_928


def test_a_layer_belongs_to_the_groups_whose_trunk_it_is_in():
    architecture = made(layers=4, groups={"a": ["grades"], "b": ["scores", "pairs"]}, depth={"a": 3, "b": 1})
    parts = {name: part.tasks for name, part in architecture.parts().items()}
    # Layers 0 to 2 (counted from 0) serve all, because the trunk of a holds three; the last one of the encoder is b's.
    assert parts == {"branches.for_a": (0,), "encoder.encoder.layer.3": (1, 2)}
    assert [name for name, _ in architecture.branches["for_a"]["layer"].named_children()] == ["3"]


def test_tasks_of_a_group_share_a_pass_and_others_do_not():
    architecture = made(groups=GROUPS)
    assert architecture.pass_of(1) == architecture.pass_of(2) != architecture.pass_of(0)
    whole = made(groups={"all": ["grades", "scores", "pairs"]})
    assert whole.pass_of(0) == whole.pass_of(1) == whole.pass_of(2)
    assert whole.merged(None) is whole.encoder


def test_the_contract_holds_with_identity():
    check_architecture(TaskGroups, identity=True, groups=GROUPS, depth=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": {"a": ["grades"], "b": ["pairs"]}}, '"scores" is in no group; put every task of the run into one'),
        ({"groups": {"a": ["grades", "pairs"], "b": ["pairs", "scores"]}}, '"pairs" is listed twice'),
        ({"groups": {"a": ["grade", "pairs"]}}, 'no task "grade" in this run; did you mean "grades"'),
        ({"groups": {"a": ["grades", "scores", "pairs"], "b": []}}, '"b" has no tasks; leave it out'),
        ({"groups": {"a.b": ["grades", "scores", "pairs"]}}, 'found the name "a.b"; expected one without a dot'),
        ({"depth": {"grade": 1}}, 'depth: no group "grade"; did you mean "grades"'),
        ({"depth": 3}, "depth: found 3; expected 0 to 2, the number of layers of this encoder"),
    ],
)
def test_groups_and_depths_that_do_not_fit_are_refused(options, message):
    with pytest.raises(MtlError, match=message):
        made(**options)


def test_a_replaced_layer_is_back_in_place_after_the_pass_even_after_an_error():
    encoder = build("BertModel", **FAMILIES["BertModel"])
    name = trace_layers(encoder)[0].block

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError), replaced(encoder, {name: fails}):
        run_encoder(encoder, TOKENS)
    assert "forward" not in encoder.get_submodule(name).__dict__


# Runs


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


def run(files: Path, groups: dict | None = None, **sections):
    architecture = "hard-sharing" if groups is None else {"name": "task-groups", "groups": groups, "depth": 1}
    return set_up(small_config(files, architecture=architecture, **sections))


def step(prepared, tasks: list[int]) -> list[float]:
    combined = prepared.engine.run([TaskLoss(task, (prepared.train[task].next(),)) for task in tasks])
    prepared.optimizer.step()
    return combined.losses.tolist()


def test_a_step_of_one_group_leaves_the_branch_of_another_as_it_was(files):
    prepared = run(files, {"b": ["tone"], "a": ["same", "near"]})
    before = {name: p.clone() for name, p in prepared.model.architecture.named_parameters()}
    tasks = [prepared.model.names.index(name) for name in ("same", "near")]
    step(prepared, tasks)
    changed = {name for name, p in prepared.model.architecture.named_parameters() if not torch.equal(p, before[name])}
    assert not [name for name in changed if name.startswith("branches.")]
    assert {"encoder.encoder.layer.0.output.dense.weight", "encoder.encoder.layer.1.output.dense.weight"} <= changed


def test_one_group_is_hard_sharing_step_by_step(files):
    losses = []
    for prepared in (run(files, {"all": ["tone", "same", "near"]}), run(files)):
        torch.manual_seed(3)  # for dropout
        losses.append([step(prepared, [0, 1, 2]) for _ in range(3)])
    assert losses[0] == losses[1]


def test_gradient_methods_work_on_each_layer_with_the_tasks_that_use_it(files):
    prepared = run(
        files, {"a": ["tone"], "b": ["same", "near"]},
        gradient_regularizer={"name": "gradvac", "granularity": "layer"}, regularizers=["smart"],
    )  # fmt: skip
    for _ in range(2):
        assert all(loss < 100 for loss in step(prepared, [0, 1, 2]))
    shared = {name for name, _ in prepared.model.named_shared_parameters()}
    assert any(name.startswith("architecture.encoder.encoder.layer.1.") for name in shared)
    assert not [name for name in shared if ".branches." in name]


def test_freezing_the_encoder_freezes_the_branches_and_a_layer_that_of_every_branch(files):
    model = run(files, {"a": ["tone"], "b": ["same", "near"]}).model
    model.freeze(("layer.1",))
    frozen = {name.split("layer.")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"architecture.encoder.encoder.", "architecture.branches.for_a."}
    model.freeze(("encoder",))
    assert not any(p.requires_grad for p in model.architecture.parameters())
    assert model.states_are_frozen


def test_the_plan_counts_a_branch_for_its_task_and_names_the_groups(files):
    prepared = run(files, {"a": ["tone"], "b": ["same", "near"]})
    block = sum(p.numel() for p in prepared.model.architecture.branches.parameters())
    sizes = model_sizes(prepared.model)
    assert (sizes.added, sizes.added_for[prepared.model.names.index("tone")], sizes.encoder_passes) == (block, block, 1)
    assert (
        "layers of each group's own, of 2: b (same, near) 1, a (tone) 1; encoder/ holds those of b"
        in prepared.plan.notes
    )
