"""Options of a task for its classes and rows: class weights, label smoothing, focal loss, row weights, balanced sampling."""

import numpy as np

from mtlcli.config.schema import BalancerChoice, Config, TaskConfig
from mtlcli.data.splits import LoadedTask, declared_target
from mtlcli.errors import MtlError, one_of, quotable
from mtlcli.heads.cross_entropy import ClassOptions
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.tasks.class_loss import LARGEST_WEIGHT, ClassLoss, weights_by_name
from mtlcli.tasks.targets import Target
from mtlcli.training.compatibility import composition_of

LONGEST_LIST = 10
"""Classes whose weights a note lists."""


def loss_options(section: TaskConfig) -> list[str]:
    """Return the options of a task that change the loss of its classes."""
    values = {
        "class_weights": section.class_weights, "label_smoothing": section.label_smoothing, "focal": section.focal,
    }  # fmt: skip
    return [key for key, value in values.items() if value]


def check_class_options(config: Config) -> None:
    """Check the options of every task for its classes, before data is read.

    Raises:
        MtlError: one line for each option that the target, the head or the balancer of its task does not support.
    """
    errors: list[str] = []
    for name, section in config.tasks.items():
        try:
            target = declared_target(section, section.make(name))
            errors += _problems(config, name, section, target)
        except MtlError as error:
            errors += error.lines
    if errors:
        raise MtlError(*errors)


def _problems(config: Config, name: str, section: TaskConfig, target: Target) -> list[str]:
    """Return one line for each option of a task that cannot work."""
    where = f"tasks.{name}"
    # Overriding the method is the declaration, so that no attribute can contradict it.
    has_classes = type(target).class_counts is not Target.class_counts
    has_strata = type(target).strata is not Target.strata
    by_row = {"sampling": section.sampling, "stratify": section.stratify}
    errors = [
        f"{where}.{key}: this task predicts {target.describe()}, and {key} needs classes; remove {key}"
        for key in loss_options(section)
        if not has_classes
    ]
    errors += [
        f"{where}.{key}: this task predicts {target.describe()}, and {key} needs one class for each row; remove {key}"
        for key, value in by_row.items()
        if value and not has_strata
    ]
    head, composition = config.head_of(name), composition_of(config, name)
    unsupported = [
        key for key in loss_options(section) if head.plugin.own_loss or key in head.plugin.unsupported_options
    ]
    if has_classes and unsupported:
        errors.append(_unsupported(config, name, unsupported))
    if composition is not None:
        # A head with its own loss has a line about class_weights already.
        weights = None if head.plugin.own_loss else section.class_weights
        errors += [
            f'{where}.{key}: the batches of the head "{head.name}" have equally many rows of every class; remove {key}'
            for key, value in (("class_weights", weights), ("sampling", section.sampling))
            if value
        ]
    option = config.balancer.plugin.soft_targets
    if section.label_smoothing and option and name in config.balancer.options.get(option, {}):
        errors.append(
            f"{where}.label_smoothing: the predictions of a teacher are soft labels already (balancer.{option}.{name}); remove "
            "one of them"
        )
    if isinstance(section.class_weights, dict):
        labels = target.labels
        try:
            # Without declared labels, the names are checked once the data has been read.
            if labels and has_classes:
                weights_by_name(section.class_weights, labels, f"{where}.class_weights")
        except MtlError as error:
            errors += error.lines
    return errors


def check_heads(model: MultiTaskModel, config: Config) -> None:
    """Raise MtlError for each head with a loss of its own that does not support the options of its task."""
    errors = []
    for index, name in enumerate(model.names):
        supports = any(isinstance(module, ClassOptions) for module in model.head(index).modules())
        if loss_options(config.tasks[name]) and not supports:
            errors.append(_unsupported(config, name, loss_options(config.tasks[name])))
    if errors:
        raise MtlError(*errors)


def _unsupported(config: Config, name: str, options: list[str]) -> str:
    """Return the line about a head whose loss does not support these options."""
    pronoun = "it" if len(options) == 1 else "them"
    return f'tasks.{name}.head: "{config.head_of(name).name}" does not support {one_of(options)}; remove {pronoun}, or use another head'


def class_loss_of(loaded: LoadedTask) -> ClassLoss:
    """Return what changes the loss of a task's classes in training.

    Raises:
        MtlError: a weight names no class, or every training row has a weight of 0.
    """
    section, target = loaded.config, loaded.target
    smoothing, gamma = section.label_smoothing, section.focal or 0.0
    if not section.class_weights:
        return ClassLoss(None, smoothing, gamma)
    counts, weights = _counts_and_weights(loaded)
    gold = loaded.splits["train"].gold
    if section.sampling == "balanced" and target.strata(gold) is not None:
        # Every class that occurs is drawn equally often.
        mean = float(weights[counts > 0].mean())
    else:
        mean = target.mean_weight(gold, weights)
    if not mean:
        where = f"tasks.{loaded.task.name}.class_weights"
        raise MtlError(f"{where}: every class of the training rows has weight 0; give one of them more")
    return ClassLoss(tuple(weights.tolist()), smoothing, gamma, mean)


def _counts_and_weights(loaded: LoadedTask) -> tuple[np.ndarray, np.ndarray]:
    """Return how many training items each class has (C,), and its weight (C,)."""
    option, labels, gold = loaded.config.class_weights, loaded.target.labels or (), loaded.splits["train"].gold
    counts = loaded.target.class_counts(gold)
    if counts is None:
        raise ValueError(f"{type(loaded.target).__qualname__} has no classes to weight")
    if isinstance(option, dict):
        return counts, weights_by_name(option, labels, f"tasks.{loaded.task.name}.class_weights")
    return counts, loaded.target.balanced_weights(gold, root=option == "auto-sqrt")


def class_notes(loaded: LoadedTask, balancer: BalancerChoice) -> list[str]:
    """Return a line of the plan about the options of a task for its classes and rows; none where all are at their defaults."""
    section, split = loaded.config, loaded.splits["train"]
    settings, labels = class_loss_of(loaded), loaded.target.labels or ()
    parts = []
    if settings.weights is not None:
        rule = section.class_weights if isinstance(section.class_weights, str) else "by name"
        parts.append(f"class weights {rule}: {_listed(labels, np.array(settings.weights))}")
    if settings.smoothing:
        parts.append(f"label smoothing {settings.smoothing:g}")
    if settings.gamma:
        parts.append(f"focal loss with gamma {settings.gamma:g}")
    if split.weights is not None:
        zeros = int((split.weights == 0).sum())
        parts.append(
            f'row weights from "{section.weight}": {split.weights.min():.3g} to {split.weights.max():.3g}, mean 1'
            + (f", 0 for {zeros} rows" if zeros else "")
            + ("; metrics on dev use them too" if section.weighted_metrics else "")
        )
    strata = loaded.target.strata(split.gold)
    if section.sampling == "balanced" and strata is not None:
        # A negative stratum marks a row without a known class, which balanced sampling never draws.
        counts = np.bincount(strata[strata >= 0], minlength=len(labels))
        # A pass draws as many rows as have a class, equally many of each class that occurs.
        drawn = counts.sum() / (counts > 0).sum() / np.maximum(counts, 1) * (counts > 0)
        parts.append(f"balanced sampling, times that a pass draws each row: {_listed(labels, drawn)}")
    name = loaded.task.name
    notes = [f"{name}: {'; '.join(parts)}"] if parts else []
    if settings.smoothing and balancer.plugin.assumes_zero:
        floor = settings.floor(loaded.target.alternatives)
        notes.append(
            f"{name}: with label smoothing the training loss cannot fall below {floor:.2g}, and {balancer.name} weights tasks by "
            "their distance from 0"
        )
    return notes


def _listed(labels: tuple[str, ...], numbers: np.ndarray) -> str:
    """Return numbers of classes, the largest first: `rare 33.3, common 0.37`."""
    order = np.argsort(-numbers, kind="stable")
    listed = ", ".join(f"{quotable(labels[index])} {numbers[index]:.3g}" for index in order[:LONGEST_LIST].tolist())
    more = len(order) - LONGEST_LIST
    return listed if more <= 0 else f"{listed}, and {more} more down to {numbers[order[-1]]:.3g}"


def class_warnings(loaded: LoadedTask) -> list[str]:
    """Return warnings about the weights of a task's classes."""
    section, labels, name = loaded.config, loaded.target.labels or (), loaded.task.name
    if not section.class_weights:
        return []
    counts, weights = _counts_and_weights(loaded)
    warnings = []
    if isinstance(section.class_weights, str):
        absent = [labels[index] for index in np.flatnonzero((counts == 0) & (weights == 0)).tolist()]
        if absent:
            listed = one_of(map(quotable, absent[:LONGEST_LIST]))
            warnings.append(f"{name}: no training row has {listed}; the class weight is 0")
        if weights.max() >= LARGEST_WEIGHT:
            rare = [labels[index] for index in np.flatnonzero(weights >= LARGEST_WEIGHT).tolist()]
            listed = one_of(map(quotable, rare[:LONGEST_LIST]))
            warnings.append(f"{name}: the class weight of {listed} is limited to {LARGEST_WEIGHT:g}")
        if section.sampling == "balanced":
            warnings.append(
                f"{name}: sampling balanced and class_weights {section.class_weights} both correct for rare classes; use one of them"
            )
    return warnings
