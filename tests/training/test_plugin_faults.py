"""A third party's plugin that breaks its contract ends the run in one line that names it; a built-in one keeps its traceback."""

import re
import sys

import pytest

from mtlcli.balancers.equal import Equal
from mtlcli.errors import MtlError
from mtlcli.registry import lookup
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up
from small import small_config, write_files

SOURCE = """
import torch
from mtlcli.balancers.base import Balancer
from mtlcli.gradient_regularizers.base import GradientRegularizer
from mtlcli.regularizers.base import Regularizer
from mtlcli.schedulers.base import Scheduler, Stage, Visit


class Shape(Balancer):
    def forward(self, losses, tasks):
        return losses.sum()


class Raises(Balancer):
    def forward(self, losses, tasks):
        return self.helper(losses)

    def helper(self, losses):
        return losses.view(7, 7)


class Detached(Balancer):
    def forward(self, losses, tasks):
        return losses.detach()


class Known(Balancer):
    def known_weights(self, tasks):
        return 1.0


class Mixed(Balancer):
    def known_weights(self, tasks):
        return torch.ones(len(tasks))

    def batch_losses(self, batch):
        return batch.losses.mean()


class Own(Balancer):
    needs = frozenset({"gram"})

    def forward(self, losses, tasks):
        return 1.0 * losses

    def own_objective(self, losses, tasks, gram):
        return losses


class Weights(GradientRegularizer):
    def weights(self, gram, tasks):
        return gram


class Combine(GradientRegularizer):
    reads_rows = True

    def combine(self, rows, gram, tasks):
        return rows


class Layers(GradientRegularizer):
    granularity = "layer"

    def block_weights(self, grams, tasks):
        return torch.ones(len(tasks))


class Adds(Regularizer):
    def forward(self, forward):
        return forward.output


class Pulls(Regularizer):
    def after_backward(self, model):
        raise KeyError("weight")


class Follows(Regularizer):
    def after_step(self, model):
        1 / 0


class Setup(Regularizer):
    def setup(self, context):
        raise OSError("no disk")


class Init(Regularizer):
    def __init__(self, run):
        super().__init__(run)
        self.first = run.tasks[9]


class Steps(Regularizer):
    def on_step(self, result):
        result.nothing


class Base(Scheduler):
    tasks_per_step = "all"

    def visits(self, position):
        return [Visit(0)]

    def steps_per_epoch(self):
        return 2


class Twice(Base):
    def visits(self, position):
        return [Visit(0), Visit(0)]


class Empty(Base):
    def visits(self, position):
        return []


class Late(Base):
    def visits(self, position):
        return [Visit(0), Visit(3)]


class Epoch(Base):
    def steps_per_epoch(self):
        return 0


class Ends(Base):
    def epoch_ends(self, epochs, steps, steps_per_epoch):
        return [2, 1]


class Stage9(Base):
    def stage(self, position):
        return Stage(9, 1)
"""

SHORT = {"steps": 2, "batch_size": 4, "steps_per_epoch": None}

BALANCERS = [
    ("Shape", "forward returned (); expected objectives (3,) that depend on the losses (3,) of the step's tasks"),
    (
        "Detached",
        "forward returned objectives that depend on neither the losses nor a parameter; expected objectives (3,)",
    ),
    ("Known", "known_weights returned float; expected weights (3,), detached, or None"),
    ("Mixed", "batch_losses returned (); expected losses (4,) with their graph"),
    ("Own", "own_objective returned (3,); expected one number that depends on the balancer's parameters, or None"),
]
GRADIENTS = [
    ("Weights", "weights returned (3, 3); expected weights (3,) from a Gram matrix (3, 3)"),
    ("Combine", "combine returned (3, "),
    ("Layers", "block_weights returned (3,); expected weights ("),
]
REGULARIZERS = [
    ("Adds", "forward returned (4, "),
    ("Pulls", "after_backward raised KeyError: 'weight' at "),
    ("Follows", "after_step raised ZeroDivisionError: division by zero at "),
    ("Setup", "setup raised OSError: no disk at "),
    ("Init", "__init__ raised IndexError: tuple index out of range at "),
    ("Steps", "on_step raised AttributeError: 'StepResult' object has no attribute 'nothing' at "),
]
SCHEDULERS = [
    (
        "Twice",
        "visits returned the tasks [0, 0] at step 0; expected a list of Visit, of one or more different tasks from 0 to 2",
    ),
    ("Empty", "visits returned [] at step 0; expected a list of Visit"),
    ("Late", "visits returned the tasks [0, 3] at step 0"),
    ("Epoch", "steps_per_epoch returned 0; expected a whole number from 1"),
    ("Ends", "epoch_ends returned [2, 1]; expected rising step numbers from 1"),
    ("Stage9", "stage returned Stage(start=9, steps=1"),
]
TABLE = [
    (key, name, message)
    for key, rows in (
        ("balancer", BALANCERS), ("gradient_regularizer", GRADIENTS), ("regularizers", REGULARIZERS), ("scheduler", SCHEDULERS),
    )
    for name, message in rows
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """The name of the module with the plugins above, importable."""
    (tmp_path / "faulty_plugins.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "faulty_plugins"
    sys.modules.pop("faulty_plugins", None)


def lines_of(files, folder, **sections):
    """The lines of the error that ends a run of two steps."""
    with pytest.raises(MtlError) as caught:
        list(train(set_up(small_config(files, training=SHORT, **sections)), folder))
    return caught.value.lines


@pytest.mark.parametrize(("key", "name", "message"), TABLE, ids=[name for _, name, _ in TABLE])
def test_a_fault_names_the_plugin_the_method_and_the_contract(faulty, files, tmp_path, key, name, message):
    target = f"{faulty}:{name}"
    (line,) = lines_of(files, tmp_path / "run", **{key: [target] if key == "regularizers" else target})
    kind = key.removesuffix("s").replace("_", " ")
    assert line.startswith(f'{kind} "{target}": {message}'), line
    assert "; expected " in line


def test_an_exception_shows_the_plugins_own_lines_alone(faulty, files, tmp_path):
    (line,) = lines_of(files, tmp_path / "run", balancer=f"{faulty}:Raises")
    place = re.escape(str(tmp_path / "faulty_plugins.py"))
    assert re.search(
        rf"forward raised RuntimeError: shape '\[7, 7\]' is invalid for input of size 3 at {place}:\d+ "
        rf"\(return losses\.view\(7, 7\)\), called from {place}:\d+ \(return self\.helper\(losses\)\); expected objectives",
        line,
    ), line


def test_the_distribution_of_an_installed_plugin_is_named(faulty, files, tmp_path):
    info = tmp_path / "mtlcli_faulty-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mtlcli-faulty\nVersion: 1.2\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[mtlcli.balancers]\nshape = {faulty}:Shape\n", encoding="utf-8")
    lookup._installed.cache_clear()
    try:
        (line,) = lines_of(files, tmp_path / "run", balancer="shape")
    finally:
        lookup._installed.cache_clear()
    assert line.startswith('balancer "shape" from mtlcli-faulty 1.2: forward returned (); expected objectives (3,)')


def test_a_fault_of_a_built_in_plugin_is_a_bug_and_keeps_its_traceback(files, tmp_path, monkeypatch):
    monkeypatch.setattr(Equal, "known_weights", lambda self, tasks: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(train(set_up(small_config(files, training={"steps": 1})), tmp_path / "run"))
