"""Fusion of adapters by hand, and after a run that trained the adapters."""

import math

import pytest
import torch
from torch import nn

from families import FAMILIES, TRACED, build
from mtlcli.architectures.adapter_fusion import AdapterFusion, Fusion
from mtlcli.architectures.adapters import Adapters
from mtlcli.architectures.base import ArchitectureFacts, Inputs, run_encoder
from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.errors import MtlError
from mtlcli.runs.configuration import inherited_sections
from mtlcli.testing import RUN, check_architecture
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up
from small import small_config, small_values, write_files

TOKENS = Inputs(torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]), None, None, all_layers=True)


def made(name: str = "BertModel", tasks: int = 2, **options) -> AdapterFusion:
    return AdapterFusion(ArchitectureFacts(build(name, **FAMILIES[name]), RUN.tasks[:tasks], 1), **options).eval()


def move(module: nn.Module) -> None:
    torch.manual_seed(2)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)


def test_the_fused_change_by_hand():
    # x = 1, changes 1 and 3, W_q = W_k = ln 3 / 2 with b = 0: scores (ln 3 / 2)^2 x z; W_v = 2
    fusion, root = Fusion(1), math.sqrt(math.log(3) / 2)
    with torch.no_grad():
        fusion.query.weight.fill_(root)
        fusion.key.weight.fill_(root)
        fusion.value.weight.fill_(2.0)
    # scores (ln 3 / 2, 3 ln 3 / 2) differ by ln 3: weights 1/4, 3/4: 2 (1/4 + 9/4) = 5
    assert fusion(torch.ones(1, 1), torch.tensor([[[1.0], [3.0]]])).item() == pytest.approx(5.0)
    assert fusion.distance().item() == 1.0


def test_equal_changes_are_fused_to_themselves():
    fusion, z = Fusion(4), torch.randn(4)
    torch.testing.assert_close(fusion(torch.randn(3, 4), z.expand(3, 5, 4)), z.expand(3, 4))


@pytest.mark.parametrize("name", TRACED)
def test_one_task_s_fusion_is_its_adapter(name):
    architecture = made(name, tasks=1, width=2)
    assert torch.equal(architecture(0, TOKENS).last, run_encoder(architecture.encoder, TOKENS).last)
    move(architecture.tasks)
    plain = Adapters(ArchitectureFacts(architecture.encoder, RUN.tasks[:1], 1), width=2).eval()
    plain.tasks = architecture.tasks
    torch.testing.assert_close(architecture(0, TOKENS).last, plain(0, TOKENS).last, rtol=0, atol=1e-5)


def test_every_task_reads_all_adapters_and_its_own_fusion():
    architecture = made(width=2)
    move(architecture.tasks)
    before = architecture(0, TOKENS).last
    with torch.no_grad():
        architecture.tasks.of(1)["ffn_out"][0].up.bias.add_(1.0)
    after = architecture(0, TOKENS).last
    assert not torch.allclose(before, after)
    move(architecture.fusions.of(1))
    assert torch.equal(architecture(0, TOKENS).last, after)


def test_the_pull_of_the_values_is_an_extra_loss_of_training():
    architecture = made(regularization=0.5).train()
    assert architecture(0, TOKENS).extra.tolist() == [0.0, 0.0]
    with torch.no_grad():
        architecture.fusions.of(0)[1].value.weight[0, 1] = 3.0
    assert architecture(0, TOKENS).extra.tolist() == [4.5, 4.5] and architecture(1, TOKENS).extra.tolist() == [0.0, 0.0]
    assert architecture.eval()(0, TOKENS).extra is None


def test_a_task_adds_three_matrices_a_layer():
    # N (3 d^2 + 2 d) with d = 16, N = 2
    assert sum(p.numel() for p in made().fusions.of(0).parameters()) == 2 * (3 * 256 + 32)


def test_adapters_of_a_run_are_fused_in_a_second_one(tmp_path):
    files = write_files(tmp_path / "files")
    first = set_up(small_config(files, architecture={"name": "adapters", "width": 2}, training={"steps": 3}))
    list(train(first, tmp_path / "first"))
    values = small_values(files)
    second = {"tasks": values["tasks"], "training": values["training"], "init": str(tmp_path / "first")}

    def fused(**options):
        config = resolve(
            [Layer({**second, "architecture": {"name": "adapter-fusion", "width": 2, **options}})],
            inherit=inherited_sections,
        )
        return set_up(config).model

    model = fused(adapters="frozen")
    trained, taken = first.model.architecture.state_dict(), model.architecture.state_dict()
    adapters = [key for key in trained if key.startswith("tasks.")]
    assert adapters and all(torch.equal(trained[key], taken[key]) for key in adapters)
    assert not [p for p in model.architecture.tasks.parameters() if p.requires_grad]
    assert model.shared_parameters() == []
    with pytest.raises(MtlError, match="the adapters of tone, same, near are untrained; start from a run of adapters"):
        set_up(small_config(files, architecture={"name": "adapter-fusion", "adapters": "frozen"}))


def test_identity_holds_for_every_task():
    check_architecture(AdapterFusion, identity=True)
