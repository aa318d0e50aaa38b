"""The contracts of mtlcli.testing over every built-in plugin, and that they find what is broken."""

import math
from types import SimpleNamespace
from typing import Annotated

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import nn

from mtlcli import registry
from mtlcli.architectures.base import Architecture, Part, run_encoder
from mtlcli.balancers.base import Balancer
from mtlcli.encoders.tiny import Tiny
from mtlcli.errors import MtlError
from mtlcli.facts import RunFacts, TaskFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer
from mtlcli.heads.cross_entropy import class_loss
from mtlcli.heads.linear import Linear
from mtlcli.metrics.base import Decomposed, Metric
from mtlcli.regularizers.base import Regularizer
from mtlcli.schedulers.base import Scheduler, Visit
from mtlcli.tasks.base import Task
from mtlcli.tasks.class_loss import ClassLoss
from mtlcli.tasks.targets import Classes, Ragged, Score
from mtlcli.testing import (
    GRADES,
    MIXTURES,
    NAMES,
    QUESTIONS,
    RANKS,
    SCORES,
    TOPICS,
    check_architecture,
    check_balancer,
    check_encoder,
    check_gradient_regularizer,
    check_head,
    check_metric,
    check_regularizer,
    check_scheduler,
    check_task,
    check_tracker,
)

BUILT_IN = {
    "tasks": [
        "cfimdb",
        "classification",
        "label-distribution",
        "multi-label",
        "multiple-choice",
        "nli",
        "ordinal",
        "pair-classification",
        "pair-label-distribution",
        "pair-multi-label",
        "pair-ordinal",
        "pair-regression",
        "pair-unlabeled",
        "quora",
        "regression",
        "relation",
        "span-extraction",
        "sst",
        "sts",
        "tagging",
        "unlabeled",
    ],
    "heads": [
        "choice-linear",
        "class-contrastive",
        "cosine",
        "linear",
        "mlp",
        "none",
        "ordinal-coral",
        "ordinal-cumulative",
        "pair-compare",
        "pair-concat",
        "pair-mix",
        "relation-linear",
        "relation-mlp",
        "span-linear",
        "tag-crf",
        "tag-linear",
    ],
    "schedulers": [
        "all-together",
        "annealed",
        "bandit",
        "curriculum",
        "entropy",
        "fixed-ratio",
        "linear-temperature",
        "proportional",
        "round-robin",
        "shuffled",
        "similarity",
        "stages",
        "state-machine",
        "temperature",
        "worst-task",
    ],
    "balancers": [
        "distill-anneal",
        "dwa",
        "epoch-sigmoid",
        "equal",
        "famo",
        "geometric",
        "gradnorm",
        "imtl-l",
        "inverse-size",
        "ratio-clamp",
        "rlw",
        "static",
        "tchebycheff",
        "uncertainty",
    ],
    "gradient_regularizers": [
        "aligned-mtl",
        "cagrad",
        "graddrop",
        "gradvac",
        "imtl-g",
        "mgda",
        "nash-mtl",
        "pcgrad",
        "upgrad",
    ],
    "regularizers": ["bppo", "l2-sp", "representation-alignment", "smart", "soft-sharing", "successive"],
    "encoders": ["tiny"],
    "architectures": [
        "adapter-fusion",
        "adapters",
        "adversarial",
        "ca-mtl",
        "convolution",
        "cyclic",
        "domain-adversarial",
        "feature-fusion",
        "feature-pipeline",
        "hard-sharing",
        "hyperformer",
        "hypergrid",
        "ia3",
        "interactive",
        "leaky-units",
        "lora",
        "mixlora",
        "mmoe",
        "multi-level",
        "pals",
        "ple",
        "prefix",
        "prompt",
        "shared-memory",
        "signal-pipeline",
        "sluice",
        "soft-sharing",
        "task-groups",
        "task-moe",
        "task-routing",
    ],
    "trackers": ["tensorboard"],
    "metrics": (
        "accuracy answer-exact-match answer-f1 average-precision binary-accuracy calibration-error exact-match f1 kendall kl-divergence "
        "macro-f1 mae mcc mean-average-precision mean-squared-error micro-f1 micro-f1-at-half pearson precision "
        "quadratic-weighted-kappa r2 recall relation-f1 rmse roc-auc span-f1 span-f1-strict span-precision span-recall "
        "spearman subset-accuracy surface-f1 tag-accuracy total-variation weighted-f1 within-one"
    ).split(),
}
"""The registry as users know it: a name that leaves this table is a name that somebody's recipe has."""

CHECKS = {
    "tasks": check_task,
    "heads": check_head,
    "schedulers": check_scheduler,
    "balancers": check_balancer,
    "gradient_regularizers": check_gradient_regularizer,
    "regularizers": check_regularizer,
    "encoders": check_encoder,
    "architectures": check_architecture,
    "trackers": check_tracker,
}

OPTIONS = {
    "heads": {
        "cosine": [{}, {"relu": True}, {"gamma": 0.5}],
        "linear": [{}, {"gamma": 0.0}],
        "mlp": [
            {},
            {"hidden": [6, 4], "activation": "gelu"},
            {"hidden": [6], "shared": "common"},
            {"hidden": [], "gamma": 0.5},
        ],
        "pair-compare": [{}, {"layers": [0], "hidden": []}, {"activation": "tanh", "gamma": 0.5}],
        "pair-concat": [{}, {"difference": False}, {"product": True}],
        "pair-mix": [
            {},
            {"alpha": 0.0, "hidden": [6]},
            {"alpha": 1.0, "gamma": 0.5},
            {"alpha": 0.3, "learn_alpha": True, "hidden": [6], "shared": "common"},
            {"cosine_loss": 1.0, "triplet_loss": 1.0},
            {"triplet_loss": 1.0, "distance": "euclidean"},
        ],
    },
    "schedulers": {
        "stages": [
            {"stages": [{"tasks": ["grades"]}]},
            {"stages": [{"steps": 5, "freeze": ["heads"]}, {"scheduler": "annealed", "epochs": 2, "lr_factor": 0.5}]},
        ],
        "round-robin": [{"exhausted": "cycle"}, {"exhausted": "stop"}, {"exhausted": "drop"}],
        "temperature": [{}, {"temperature": 0.1}, {"temperature": math.inf}],
        "annealed": [{}, {"decay": 0.0}, {"decay": 1.0}],
        "linear-temperature": [{}, {"warmup_epochs": 0.1}, {"initial": 0.2, "final": 50.0}],
        "all-together": [{}, {"max_micro_batches": 1}],
        "fixed-ratio": [
            {"ratio": {}},
            {"ratio": {"grades": 0.25}, "order": "interleaved"},
        ],
        "similarity": [{}, {"primary": "grades", "same_task": ["grades"], "same_language": []}],
        "bandit": [{}, {"hold": 1, "rate": 1.0}, {"temperature": 0.01, "initial_value": 0.0}],
        "worst-task": [{}, {"relative": "chance"}, {"relative": "none"}],
        "entropy": [{}, {"form": "code"}],
        "state-machine": [{}, {"patience": 3, "tolerance": 0.1}, {"decay": 1.0}],
        "curriculum": [{}, {"order": ["grades"]}, {"cumulative": False}, {"measure_share": 0.9, "cumulative": False}],
    },
    "balancers": {
        "static": [{"weights": {}}, {"weights": {"grades": 2.0}}, {"weights": {"grades": 0.0}}],
        "tchebycheff": [{}, {"smooth": 0.1}, {"reference": "validation"}],
        "distill-anneal": [
            {"teachers": {"grades": "anywhere"}},
            {"teachers": {"grades": "anywhere"}, "mode": "fixed", "weight": 0.0},
        ],
        "uncertainty": [{}, {"initial_log_variance": -10.0}, {"initial_log_variance": 10.0}, {"form": "regression"}],
        "dwa": [{}, {"temperature": 0.1}, {"window": 1}, {"window": 3}],
        "gradnorm": [{}, {"alpha": 0.0}, {"alpha": 10.0}, {"initial_loss": "log-classes"}],
        "imtl-l": [{}, {"initial_scale": -10.0}, {"initial_scale": 10.0}],
        "epoch-sigmoid": [{"start": {}}, {"start": {"grades": 2}, "weights": {"grades": 3.0}, "temperature": 0.01}],
        "ratio-clamp": [{}, {"primary": "grades"}, {"lowest": 1.0, "initial": 1.0}],
        "famo": [{}, {"lr": 1.0, "weight_decay": 0.0}],
    },
    "gradient_regularizers": {
        "aligned-mtl": [{}, {"scale_mode": "median"}, {"scale_mode": "rmse"}],
        "cagrad": [{}, {"c": 0.0}, {"c": 10.0}],
        "graddrop": [{}, {"leak": 0.5}],
        "gradvac": [{}, {"target": 0.5}, {"granularity": "layer"}, {"granularity": "tensor", "beta": 1.0}],
        "mgda": [{}, {"normalize": "l2"}],
        "nash-mtl": [{}, {"max_norm": None}],
        "pcgrad": [{}, {"scale": "mean"}],
    },
    "regularizers": {
        "bppo": [{}, {"switch": 0.0, "beta": 0.75}, {"switch": 1.0, "early_beta": 0.0}],
        "l2-sp": [{}, {"alpha": 0.0}, {"beta": 0.0}],
        "representation-alignment": [{}, {"distance": "mmd"}, {"distance": "cmd"}, {"memory": 1}],
        "smart": [
            {},
            {"form": "mtdnn"},
            {"norm": "l2"},
            {"form": "mtdnn", "norm": "l2", "epsilon": 0.0},
            {"steps": 3, "dropout": "off"},
            {"epsilon": 0.0, "sigma": 0.0},
            {"norm": "l2", "epsilon": 0.0, "sigma": 0.0},
            {"form": "mtdnn", "epsilon": 0.0, "sigma": 0.0},
        ],
        "soft-sharing": [{}, {"weight": 0.0}],
        "successive": [{}, {"delta": 1.0}],
    },
    "encoders": {"tiny": [{"dim": 16, "layers": 1, "intermediate": 32}]},
    "architectures": {
        "adapters": [
            {},
            {"form": "houlsby", "per": "both"},
            {"form": "parallel", "per": "shared"},
            {"norms": "trained"},
            {"backbone": "trained", "invertible": True},
            {"languages": {"grades": "en", "scores": "en"}, "invertible": True},
        ],
        "ia3": [{}, {"per": "both"}],
        "pals": [{}, {"form": "low-rank", "per": "both"}, {"backbone": "frozen", "heads": 2}],
        "task-moe": [{}, {"by": "token", "top": 1}, {"by": "both", "experts": 2}],
        "hyperformer": [{}, {"plus": False, "norms": "frozen"}],
        "prompt": [
            {"length": 3},
            {"length": 3, "per": "both"},
            {"form": "mpt", "length": 3},
            {"form": "attempt", "length": 3},
        ],
        "mixlora": [{"experts": 2}, {"experts": 2, "top": 1, "router": "token+task"}],
        "ca-mtl": [{"length": 8, "blocks": 3}, {"attention": False, "backbone": "frozen"}],
        "task-groups": [
            {},
            {"groups": {"a": ["pairs"], "b": ["grades", "scores"]}, "depth": 1},
            {"groups": {"a": ["grades", "pairs"], "b": ["scores"]}, "depth": {"a": 0, "b": 1}},
        ],
        "sluice": [{}, {"layers": 1, "subspaces": 1}, {"initial": "imbalanced", "orthogonality": 0.0}],
        "leaky-units": [{}, {"layers": 1}, {"layers": 2, "units": "every", "divide": "survey"}],
        "multi-level": [{}, {"depths": {"grades": 1, "pairs": 0}}, {"mixture": True, "skip": True}],
        "feature-fusion": [{}, {"combine": "sum"}, {"combine": "attention"}, {"combine": "concat"}],
        "shared-memory": [{}, {"local": True, "gates": "own"}],
        "task-routing": [{}, {"scale": "output", "blocks": 1}],
        "prefix": [{"length": 3}, {"length": 3, "per": "both"}],
        "adapter-fusion": [{}, {"adapters": "frozen"}],
        "hypergrid": [{}, {"by": "text"}, {"kind": "local", "backbone": "frozen"}, {"kind": "global"}],
        "mmoe": [{}, {"gate": "token", "experts": 2}],
        "ple": [{}, {"levels": 1, "own_experts": 0}, {"levels": 3, "gate": "token", "shared_experts": 2}],
        "adversarial": [{}, {"combine": "gate"}, {"hidden": 5, "similarity_form": "sum", "weight_on": "both"}],
        "cyclic": [{}, {"rounds": 1}, {"keep": "last"}],
        "domain-adversarial": [{}, {"hidden": 0, "domains": {"films": ["grades"], "shops": ["pairs"]}}],
        "feature-pipeline": [
            {},
            {"form": "cascade"},
            {"detach": True, "depths": {"grades": 1}},
            {"form": "fusion", "depths": {"grades": 1}, "combine": "gate"},
        ],
        "interactive": [{}, {"rounds": 0}, {"form": "imn"}],
        "lora": [{}, {"on": ["all"], "per": "both"}, {"dora": True, "per": "shared"}, {"backbone": "trained"}],
        "signal-pipeline": [{}, {"source": "pairs", "detach": True}],
    },
}
"""What a plugin is tried with besides its defaults, where that matters: by family and name."""

ANSWERS = TaskFacts("answers", rows=100, batches=7, target=Classes.named("no", "yes"))
FACTS = {
    **dict.fromkeys(("accuracy", "weighted-f1", "mcc", "calibration-error"), GRADES),
    **dict.fromkeys(("f1", "binary-accuracy", "precision", "recall", "roc-auc", "average-precision"), ANSWERS),
    **dict.fromkeys(("mae", "rmse", "r2", "kendall"), SCORES),
    **dict.fromkeys(("answer-f1", "answer-exact-match"), QUESTIONS),
    "relation-f1": GRADES,
    **dict.fromkeys(("quadratic-weighted-kappa", "within-one"), RANKS),
    **dict.fromkeys(("kl-divergence", "total-variation"), MIXTURES),
    "exact-match": SCORES,
    "macro-f1": GRADES,
    "mean-squared-error": SCORES,
    "pearson": SCORES,
    "spearman": SCORES,
    **dict.fromkeys(
        ("span-f1", "span-f1-strict", "span-precision", "span-recall", "surface-f1", "tag-accuracy"), NAMES
    ),
    **dict.fromkeys(("micro-f1", "micro-f1-at-half", "subset-accuracy", "mean-average-precision"), TOPICS),
}
"""The kind of task that each metric measures."""

TABLE = [
    pytest.param(
        family,
        name,
        options,
        id=f"{name}-{'-'.join(f'{k}={v}' for k, v in options.items()) or 'defaults'}",
    )
    for family, found in registry.FAMILIES.items()
    if family != "metrics"
    for name in found.built_in
    for options in OPTIONS.get(family, {}).get(name, [{}])
]


def test_no_name_has_vanished_from_the_registry_or_come_unnoticed():
    assert {family: sorted(found.built_in) for family, found in registry.FAMILIES.items()} == BUILT_IN


def test_a_balancer_and_a_gradient_regularizer_never_share_a_name():
    assert not set(BUILT_IN["balancers"]) & set(BUILT_IN["gradient_regularizers"])


@pytest.mark.parametrize(("family", "name", "options"), TABLE)
def test_every_built_in_plugin_keeps_the_contract_of_its_family(family, name, options):
    CHECKS[family](registry.load(family, name, "test"), **options)


@pytest.mark.parametrize("name", BUILT_IN["metrics"])
def test_every_built_in_metric_keeps_the_contract(name):
    check_metric(registry.load("metrics", name, "test"), FACTS[name])


def test_macro_f1_measures_sets_of_labels_too():
    check_metric(registry.load("metrics", "macro-f1", "test"), TOPICS)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {"average": average}) for name in ("f1", "precision", "recall") for average in ("macro", "weighted")),
        ("roc-auc", {"positive": "fair"}),
        ("calibration-error", {"bins": 3}),
    ],
)
def test_metrics_keep_the_contract_with_options(name, options):
    check_metric(registry.load("metrics", name, "test"), GRADES, **options)


# What is broken is found: one plugin for each promise


def refused(check, plugin, message, *arguments):
    with pytest.raises(AssertionError, match=message):
        check(plugin, *arguments)


def test_an_option_without_description_is_refused():
    class Undescribed(Balancer):
        """Has an option that no help page can explain."""

        def __init__(self, run: RunFacts, *, strength: Annotated[float, Field(ge=0)] = 1.0) -> None:
            super().__init__(run)

    refused(check_balancer, Undescribed, "the option strength has no description")


def test_a_second_positional_parameter_is_refused():
    class Positional(Balancer):
        """Takes an option by position."""

        def __init__(self, run: RunFacts, strength: float = 1.0) -> None:
            super().__init__(run)

    refused(check_balancer, Positional, r"1 positional parameter.*found \['run', 'strength'\]")


def test_a_class_of_another_family_is_refused():
    refused(check_balancer, Linear, "expected a class derived from mtlcli.balancers.base.Balancer")


def test_an_unknown_option_is_refused():
    with pytest.raises(AssertionError, match="Uncertainty rejects the options"):
        check_balancer(registry.load("balancers", "uncertainty", "test"), strength=1.0)


def test_known_weights_that_are_not_those_of_forward_are_refused():
    class Disagrees(Balancer):
        """Says 2 and does 3."""

        def known_weights(self, tasks):
            return torch.full((len(tasks),), 2.0)

        def forward(self, losses, tasks):
            return 3 * losses

    refused(check_balancer, Disagrees, r"known_weights: found \[2.0\] .* the objectives have the weights \[3.0\]")


def test_known_weights_that_change_from_call_to_call_are_refused():
    class Draws(Balancer):
        """Draws its weights again at each call, so that the engine uses others than it reports."""

        def known_weights(self, tasks):
            return torch.rand(len(tasks), generator=self.generator)

    refused(check_balancer, Draws, "the same in two calls")


def test_a_balancer_that_divides_by_a_loss_of_zero_is_refused():
    class Divides(Balancer):
        """Weighs by 1 / L."""

        def forward(self, losses, tasks):
            return losses / losses.detach()

    refused(check_balancer, Divides, r"expected finite numbers for tasks \[0\] with losses \[0.0\]")


def test_a_balancer_that_takes_position_for_task_is_refused():
    class Positions(Balancer):
        """Uses the place in the step where it should use the task."""

        def forward(self, losses, tasks):
            return losses * torch.arange(1.0, len(losses) + 1)

    refused(check_balancer, Positions, "the order of the tasks matters: for tasks")


def test_history_outside_buffers_is_refused():
    class Forgets(Balancer):
        """Keeps its history where no checkpoint finds it."""

        def __init__(self, run: RunFacts) -> None:
            super().__init__(run)
            self.seen = 1

        def on_step(self, result):
            self.seen += 1

        def forward(self, losses, tasks):
            return losses * self.seen

    refused(check_balancer, Forgets, "a copy with the same state to give the same objectives")


def test_a_balancer_whose_forward_changes_its_state_is_told_so_and_not_that_the_order_matters():
    class Averages(Balancer):
        """Updates its running mean where it reads it."""

        def __init__(self, run: RunFacts) -> None:
            super().__init__(run)
            self.register_buffer("mean", torch.ones(len(run.tasks)))

        def forward(self, losses, tasks):
            self.mean[tasks] = 0.9 * self.mean[tasks] + 0.1 * losses.detach()
            return losses / self.mean[tasks].clamp_min(1e-6)

    refused(
        check_balancer, Averages, r"Averages\.forward changes mean; expected state to change in a hook, such as on_step"
    )


def test_a_head_that_ignores_the_weights_of_classes_is_refused():
    class Plain(Linear):
        """Holds the loss of its task's options, and computes another one."""

        def loss(self, output, gold):
            if isinstance(self.facts.task.target, Score):
                return super().loss(output, gold)
            return class_loss(output, gold["index"], ClassLoss())

    refused(
        check_head,
        Plain,
        r"Plain for grades: in training, expected the losses .* with all class weights at 2",
    )

    class Always(Linear):
        """Applies them in evaluation too."""

        def loss(self, output, gold):
            if isinstance(self.facts.task.target, Score):
                return super().loss(output, gold)
            return class_loss(output, gold["index"], self.facts.task.class_loss)

    refused(
        check_head, Always, r"Always for grades: in evaluation mode, expected the losses .* whatever the class weights"
    )


def test_a_head_that_cannot_take_a_kind_of_target_is_told_how_to_decline_it():
    class ClassesOnly(Linear):
        """Takes the cross-entropy of whatever it gets."""

        def loss(self, output, gold):
            return class_loss(output, gold["index"], self.facts.task.class_loss if self.training else ClassLoss())

    refused(
        check_head, ClassesOnly,
        r"ClassesOnly\.loss raises \w+ for scores: .*; a head that cannot predict this kind of target must decline it by raising "
        "MtlError in __init__",
    )  # fmt: skip

    class Declines(Linear):
        """Predicts classes alone, and says so."""

        def __init__(self, facts) -> None:
            if not isinstance(facts.task.target, Classes):
                raise MtlError("predicts classes; choose another head")
            super().__init__(facts)

    check_head(Declines)


def test_a_head_that_cannot_take_an_unknown_label_is_refused():
    class Strict(Linear):
        """Forgets that a label can be unknown."""

        def loss(self, output, gold):
            if "index" in gold:
                return nn.functional.cross_entropy(output, gold["index"], reduction="none")
            return super().loss(output, gold)

    refused(check_head, Strict, r"the loss raises IndexError for a row whose label is unknown \(class index -1\)")


def test_random_numbers_of_the_global_generator_are_refused():
    class Global(Balancer):
        """Disturbs the dropout of the model."""

        def on_step(self, result):
            torch.rand(1)

        def forward(self, losses, tasks):
            return 1.0 * losses

    refused(check_balancer, Global, "draws from torch's global generator")


def test_a_learned_number_without_use_is_refused():
    class Idle(Balancer):
        """Learns what nothing depends on."""

        def __init__(self, run: RunFacts) -> None:
            super().__init__(run)
            self.idle = nn.Parameter(torch.zeros(1))

        def forward(self, losses, tasks):
            return 1.0 * losses

    refused(check_balancer, Idle, "Idle.idle is learned, but no objective depends on it")


class Scaled(GradientRegularizer):
    """Has the option that every gradient regularizer has."""

    def __init__(
        self, run: RunFacts, *, scale: Annotated[str, Field(description="native, mean or sum")] = "native"
    ) -> None:
        super().__init__(run)
        self.scale = scale


def test_a_mean_that_calls_itself_a_sum_is_refused():
    class Mean(Scaled):
        """Is a mean, with native scale sum."""

        def weights(self, gram, tasks):
            return torch.full((len(gram),), 1 / len(gram), dtype=gram.dtype)

    refused(check_gradient_regularizer, Mean, r"2 gradient\(s\) equal to .* with scale native \(native: sum\)")


def test_a_division_by_the_norm_of_a_zero_gradient_is_refused():
    class Normalizes(Scaled):
        """Divides by norms that may be zero."""

        def weights(self, gram, tasks):
            return gram.diagonal().mean().sqrt() / gram.diagonal().sqrt()

    refused(check_gradient_regularizer, Normalizes, r"Normalizes.weights: found \[nan")


def test_a_projection_in_fixed_order_is_refused():
    class OneSided(Scaled):
        """Projects the first task alone."""

        def weights(self, gram, tasks):
            weights = torch.ones(len(gram), dtype=gram.dtype)
            if len(gram) > 1 and gram[0, 1] < 0:
                weights[1] -= gram[0, 1] / gram[1, 1]
            return weights

    refused(check_gradient_regularizer, OneSided, "the same combination for two tasks in either order")


def test_a_gradient_regularizer_without_the_option_scale_is_refused():
    class Unscaled(GradientRegularizer):
        """Cannot be converted."""

        def weights(self, gram, tasks):
            return torch.ones(len(gram))

    refused(check_gradient_regularizer, Unscaled, "expected the option `scale: native | mean | sum`")


class Listed(Scheduler):
    """Visits every task in every step."""

    tasks_per_step = "all"

    def visits(self, position):
        return [Visit(task) for task in range(len(self.run.tasks))]

    def steps_per_epoch(self):
        return 5


def test_a_scheduler_that_counts_its_calls_is_refused():
    class Counts(Listed):
        """Goes on at every call, so that a resumed run is another one."""

        tasks_per_step = "one"
        calls = 0

        def visits(self, position):
            self.calls += 1
            return [Visit(self.calls % len(self.run.tasks))]

    refused(check_scheduler, Counts, "expected the same visits (in a second call|from a new instance)")


def test_a_scheduler_that_visits_more_than_it_promises_is_refused():
    class Promises(Listed):
        """Promises one task and visits all."""

        tasks_per_step = "one"

    refused(check_scheduler, Promises, '"one" promises 1 to 1 of 3 tasks at step 0 with 1 micro-batches')


def test_a_scheduler_that_visits_a_task_twice_is_refused():
    class Twice(Listed):
        """Visits a task twice instead of giving it two micro-batches."""

        def visits(self, position):
            return [Visit(0), Visit(0)]

    refused(check_scheduler, Twice, r"expected different tasks out of 0 to 2 .* found \[0, 0\]")


def test_an_epoch_without_steps_is_refused():
    class Empty(Listed):
        """Has no epoch."""

        def steps_per_epoch(self):
            return 0

    refused(check_scheduler, Empty, "steps_per_epoch: expected a whole number from 1, found 0")


def test_a_head_that_gives_the_mean_loss_is_refused():
    class Mean(Linear):
        """Takes the mean, which is the engine's to take."""

        def loss(self, output, gold):
            return super().loss(output, gold).mean()

    refused(check_head, Mean, r"expected a loss \(4,\) float32, found \(\)")


def test_a_head_with_a_layer_that_nothing_uses_is_refused():
    class Idle(Linear):
        """Has a layer too many."""

        def __init__(self, facts) -> None:
            super().__init__(facts)
            self.idle = nn.Linear(2, 2)

    refused(check_head, Idle, "the loss does not depend on the parameter idle.weight")


def test_a_head_that_reads_padding_is_refused():
    class Padded(Linear):
        """Takes the mean over all positions."""

        def forward(self, encodings):
            output = self.out(encodings[0].tokens.mean(1))
            return self.kind.shaped(output)

    refused(check_head, Padded, "the output depends on padding")


def test_a_head_that_reads_layers_it_does_not_name_is_refused():
    class Late(Linear):
        """Names hidden state 1, and reads 0 as well."""

        all_layers = True
        further_layers = (1,)

        def forward(self, encodings):
            layers = encodings[0].layers
            output = self.out((layers[0] + layers[1] + layers[-1])[:, 0])
            return self.kind.shaped(output)

    refused(check_head, Late, r"further_layers names \(1,\), and it also reads hidden states \[0\]")


def test_a_head_that_decodes_standard_deviations_is_refused():
    class Raw(Linear):
        """Forgets to go back to the units of the data."""

        def decode(self, output):
            decoded = super().decode(output)
            return Ragged({"value": output}) if "value" in decoded else decoded

    refused(check_head, Raw, "expected decoded scores from 0.0 to 5.0")


def test_a_metric_that_is_nan_for_constant_rows_is_refused():
    class Correlation(Metric):
        """Divides by standard deviations that may be zero."""

        measures = frozenset({"score"})
        bounds = (-1.0, 1.0)

        def bind(self, predicted, gold):
            def correlation(counts):
                pairs = [np.repeat([predicted["value"], gold["value"]], count, axis=1) for count in counts]
                return np.array([np.corrcoef(pair)[0, 1] for pair in pairs])

            return SimpleNamespace(values=correlation)

    refused(check_metric, Correlation, "invalid value encountered|Degrees of freedom", SCORES)


def test_a_metric_that_ignores_the_resample_is_refused():
    class Ignores(Metric):
        """Gives every resample the value of all rows."""

        measures = frozenset({"classes"})

        def bind(self, predicted, gold):
            value = (predicted["index"] == gold["index"]).mean()
            return SimpleNamespace(values=lambda counts: np.full(len(counts), value))

    refused(check_metric, Ignores, "expected the value of the repeated rows", GRADES)


def test_a_metric_that_cuts_fractions_of_counts_is_refused():
    class Whole(Metric):
        """Counts right rows, as whole numbers."""

        measures = frozenset({"classes"})

        def bind(self, predicted, gold):
            right = predicted["index"] == gold["index"]
            return SimpleNamespace(
                values=lambda counts: (counts.astype(int) @ right) / np.maximum(1, counts.astype(int).sum(axis=1))
            )

    refused(check_metric, Whole, "half of all counts changes the value", GRADES)


def test_a_metric_that_reads_probabilities_unannounced_is_refused():
    class Confidence(Decomposed):
        """Averages the confidence of right rows."""

        measures = frozenset({"classes"})

        def statistics(self, predicted, gold):
            right = (predicted["index"] == gold["index"]).astype(float)
            if "probabilities" in predicted:
                right *= predicted["probabilities"].max(axis=1)
            return np.stack([right, np.ones(len(gold))], axis=1)

        def score(self, totals):
            return totals[:, 0] / totals[:, 1]

    refused(check_metric, Confidence, "expected reads_probabilities = True", GRADES)


class Colours(Task):
    """A text is red or blue."""

    texts = ("text",)
    label = "colour"
    target = Classes({"r": "red", "b": "blue"})
    heads = {"single": "linear"}
    metrics = ("accuracy",)


def test_a_task_that_trains_on_its_dev_rows_is_refused():
    class Leaks(Colours):
        """Has the same rows in every split."""

        def sample(self, split):
            return [{"text": "a rose", "colour": "r"}, {"text": "the sky", "colour": "b"}]

    refused(check_task, Leaks, r"sample\('dev'\): 2 row\(s\) are also training rows")


def test_a_label_that_the_task_cannot_read_is_refused():
    class Unread(Colours):
        """Has a label that it does not declare."""

        def sample(self, split):
            return [{"text": "a rose", "colour": "r"}, {"text": "the grass", "colour": "g"}]

    refused(check_task, Unread, "a label cannot be read: label: found 'g', expected one of r, b")


def test_a_head_for_an_encoding_that_the_task_cannot_have_is_refused():
    class Bi(Colours):
        """Encodes one text as a pair."""

        heads = {"bi": "cosine"}

    refused(check_task, Bi, "expected a head for choices, marked, single, words, found bi")


def test_a_regularizer_that_changes_the_model_is_refused():
    class Perturbs(Regularizer):
        """Leaves its perturbation in the weights."""

        def forward(self, forward):
            with torch.no_grad():
                next(forward.model.parameters()).add_(0.1)
            return forward.output.float().mean()

    refused(check_regularizer, Perturbs, "changes the model in its forward pass: architecture.encoder")


def test_an_architecture_that_hides_a_parameter_from_its_task_is_refused():
    class Mixes(Architecture):
        """Adds task 0's vector to every task."""

        def __init__(self, facts) -> None:
            super().__init__()
            self.encoder = facts.encoder
            self.vector = nn.Parameter(torch.zeros(8))

        def states(self, task, inputs):
            hidden = run_encoder(self.encoder, inputs)
            return hidden.with_last(hidden.last + self.vector)

        def parts(self):
            return {"vector": Part((0,))}

    refused(
        check_architecture, Mixes, "task 1 uses parameters that `parts` and `reads` give to others: architecture.vector"
    )


def test_an_architecture_that_hides_a_difference_between_tasks_is_refused():
    class Scales(Architecture):
        """Multiplies the features by the task's number."""

        def __init__(self, facts) -> None:
            super().__init__()
            self.encoder = facts.encoder

        def states(self, task, inputs):
            hidden = run_encoder(self.encoder, inputs)
            return hidden.with_last((1 + task) * hidden.last)

    refused(check_architecture, Scales, "pass_of: expected another key, because tasks 0 and 1 have different states")


def test_an_encoder_without_seed_is_refused():
    class Unseeded(Tiny):
        """Draws other weights at each call."""

        drawn = 0

        def __init__(self) -> None:
            super().__init__(dim=16, layers=1)

        def folder(self, facts):
            Unseeded.drawn += 1
            return super().folder(type(facts)(facts.texts, facts.scratch, Unseeded.drawn, facts.max_length))

    refused(check_encoder, Unseeded, "expected the same weights for the same seed and texts")
