"""What a sweep searches, checked before its first trial."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mtlcli.config.schema import Config
from mtlcli.sweeps.holdout import with_holdout
from mtlcli.sweeps.space import Space, impossible
from mtlcli.sweeps.storage import import_optuna
from mtlcli.trackers.session import make_trackers

SAMPLERS = ("tpe", "random")


@dataclass(frozen=True)
class SweepPlan:
    """Hold what a sweep searches.

    Attributes:
        base: the recipe as the trials train it.
        recipe: the recipe of the user, which differs where dev rows are held out.
        objectives: `select_by` alone, or several of TASK.METRIC.
        directions: `maximize` or `minimize` for each.
        notes: lines for the user.
    """

    base: Config
    recipe: Config
    space: Space
    objectives: tuple[str, ...]
    directions: tuple[str, ...]
    trials: int
    sampler: str = "tpe"
    prunes: bool = True
    storage: str | None = None
    notes: tuple[str, ...] = field(default=())


def plan_sweep(
    base: Config, space: Space, *, trials: int, objectives: Sequence[str] = (), directions: Sequence[str] = (), sampler: str = "tpe",
    prunes: bool = True, storage: str | None = None, holdout: float = 0.0,
) -> SweepPlan:  # fmt: skip
    """Check the combinations of the space, without reading data.

    Args:
        holdout: share of each task's dev rows that takes no part in the choice.

    Raises:
        MtlError: no combination works, or a tracker's package is missing.
    """
    # Only to raise if the package is missing.
    import_optuna()
    recipe = base
    if holdout:
        base = with_holdout(base, holdout)
    # Likewise: every trial builds its own trackers.
    make_trackers(base.trackers)
    several = len(objectives) > 1
    notes = []
    excluded = impossible(space, base)
    for text, reason in list(excluded.items())[:10]:
        notes.append(f"left out, because it cannot be trained: {text}: {reason}")
    if len(excluded) > 10:
        notes.append(f"left out, because they cannot be trained: {len(excluded) - 10} more combinations")
    if space.default(base) is None:
        notes.append("the recipe itself lies outside of the space, so it is no trial")
    if several and prunes:
        notes.append(
            "several objectives: every trial is trained to its end, because what falls behind in one may lead in another"
        )
    startup = startup_trials(space)
    if sampler == "tpe" and trials <= startup:
        notes.append(f"with {trials} trials the values are drawn at random: the sampler learns from {startup} on")
    return SweepPlan(
        base, recipe, space, tuple(objectives) or (base.training.select_by,), tuple(directions) or ("maximize",), trials, sampler,
        prunes and not several, storage, tuple(notes),
    )  # fmt: skip


def startup_trials(space: Space) -> int:
    """Return how many trials have random values before the sampler learns from them."""
    # 10 is Optuna's default.
    return max(10, 2 * len(space))
