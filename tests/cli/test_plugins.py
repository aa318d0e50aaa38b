"""`mtl plugins list`: columns where a program reads, wrapped text where a person does."""

import json

from mtlcli.cli import plugins
from mtlcli.cli.plugins import _columns
from mtlcli.registry.listing import PluginSummary

PCGRAD = "gradient_regularizers\tpcgrad\tRemove from each task's gradient the components that oppose other tasks"


def rows(text):
    """What is in a pipe, by the plugins' names."""
    return {line.split("\t")[1]: line.split("\t") for line in text.splitlines()}


def test_in_a_pipe_every_plugin_is_one_line_of_eight_columns(mtl):
    found = mtl("plugins", "list")
    lines = [line.split("\t") for line in found.out.splitlines()]
    assert found.code == 0
    assert {len(line) for line in lines} == {8}
    assert {line[0] for line in lines} >= {"tasks", "balancers", "metrics"}
    assert any(line.startswith(PCGRAD) for line in found.out.splitlines())


def test_the_columns_say_scale_needs_cost_and_paper(mtl):
    assert rows(mtl("plugins", "list", "schedulers").out)["round-robin"][3:5] == ["-", "all tasks per step"]
    found = rows(mtl("plugins", "list", "balancers").out)
    assert found["tchebycheff"][4] == "several-tasks"
    assert found["uncertainty"][6] == "Kendall, Gal, Cipolla, CVPR 2018, arXiv:1705.07115, equations 7 and 10"


def test_a_column_is_never_empty_and_never_holds_a_tab():
    one = PluginSummary("metrics", "m", "mtlcli-x", "1.0", "ok", "")
    assert _columns(one) == ("metrics", "m", "-", "-", "-", "-", "-", "mtlcli-x 1.0")
    one = PluginSummary(
        "balancers", "b", "mtlcli-x", "1.0", "error: a\tb\nc", "Does it", reads_rows=True, needs=("gram",)
    )
    assert _columns(one)[2:5] == ("error: a b c", "-", "gram, gradient rows")


def test_json_holds_the_same_facts_as_values(mtl):
    found = {one["name"]: one for one in json.loads(mtl("plugins", "list", "gradient-regularizers", "--json").out)}
    assert (found["pcgrad"]["needs"], found["pcgrad"]["native_scale"]) == (["several-tasks"], "sum")


def test_on_a_terminal_no_line_is_wider_than_the_window(mtl, monkeypatch):
    monkeypatch.setattr(plugins.out, "_force_terminal", True)
    lines = mtl("plugins", "list", "schedulers").out.splitlines()
    assert lines[0] == "schedulers"
    assert lines[1].startswith("  round-robin ")
    assert any("all tasks per step; cost none" in line for line in lines)
    plain = [line.replace("\x1b[2m", "").replace("\x1b[0m", "") for line in lines]
    assert max(map(len, plain)) <= 80


def test_the_options_of_a_part_are_shown_below_it(mtl):
    lines = mtl("plugins", "show", "schedulers", "stages").out.splitlines()
    at = lines.index("  stages.N.lr_factor  float, > 0, default 1.0")
    assert lines[at + 1] == "      multiplies every peak learning rate"
