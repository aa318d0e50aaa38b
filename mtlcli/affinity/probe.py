"""The short joint run on which gradients and lookahead are measured: heads fitted first, then equal weights and round robin.

With random heads, gradients are strong, repeat well, and are about the random head: their cosines have nothing to do with those of
fitted heads. So every head is first fitted on features of the frozen encoder, and kept where its loss on held-out rows is lowest.
The joint run itself consists of ordinary steps; measuring neither draws random numbers nor changes a weight, so the run is the
same with and without it.
"""

import copy
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from mtlcli.affinity.rows import shared_encoder
from mtlcli.architectures.base import HiddenStates
from mtlcli.config.layers import Layer
from mtlcli.config.schema import Config
from mtlcli.data.batches import Batch, TaskBatches
from mtlcli.errors import MtlError, one_of
from mtlcli.facts import seed_for
from mtlcli.files import discard
from mtlcli.model.predict import evaluating
from mtlcli.registry import FAMILIES
from mtlcli.runs import checkpoint
from mtlcli.runs.lock import make_folder
from mtlcli.runs.metrics_log import open_log
from mtlcli.runs.names import CHECKPOINTS
from mtlcli.studies.plan import over, weighted
from mtlcli.training.compatibility import composition_of
from mtlcli.training.setup import TrainingRun
from mtlcli.training.state import Progress, restore, save
from mtlcli.training.step import enter_stage, take_step

JOINT = "joint"
"""Folder of the joint run within an affinity folder."""
HEAD_ROWS, HELD_OUT = 2000, 1 / 3
"""Most rows on which a head is fitted and judged, and the share of them that judges."""
HEAD_PASSES, HEAD_STEPS = 10, 400
SAVE_EVERY = 50
"""Updates of the joint run between two checkpoints."""


def joint_config(base: Config, updates: int) -> Config:
    """Return the recipe of the joint run: equal weights, round robin, a constant rate after the warm-up, float32."""
    training = {
        "steps": updates,
        "epochs": None,
        "steps_per_epoch": updates,
        "patience": None,
        # Half precision would round away the small differences that the lookahead measures.
        "precision": "fp32",
        "select_by": "mean",
    }
    layer = Layer(
        {
            "scheduler": {"name": FAMILIES["schedulers"].default},
            "regularizers": [],
            "optimizer": {"schedule": "constant"},
            "training": training,
        }
    )
    return over(base, weighted(None), layer)


def check_shared(config: Config, run: TrainingRun | None, measures: Sequence[str]) -> None:
    """Raise MtlError if the tasks share no trainable parameter of which these measures need the gradients.

    Args:
        run: None before the data is read, when only the architecture can be asked.
    """
    architecture = config.architecture
    if not architecture.plugin.compares(architecture.options) or (run is not None and not shared_encoder(run.model)):
        raise MtlError(
            f"--measures: {one_of(measures)} compare gradients of what the tasks share, but with architecture "
            f'"{architecture.name}" they share no trainable parameter; choose among data, gain, transfer and logme'
        )


@dataclass(frozen=True)
class HeadFit:
    """Hold how a head was fitted.

    Attributes:
        loss: per unit, on held-out rows; the lowest of the evaluations.
        guess: loss per unit of a model that knows nothing of the text.
        steps: updates after which it was lowest.
    """

    loss: float
    guess: float
    steps: int

    @property
    def beats_guess(self) -> bool:
        """Return whether the head is better than a guess; if not, its gradients say little about the task."""
        return self.loss < self.guess


def fit_head(run: TrainingRun, task: int) -> HeadFit:
    """Fit the head of a task on features of the encoder as it is, and keep it at its lowest held-out loss."""
    model, source, config = run.model, run.train[task], run.config
    # A source of its own, because the position of the run's batches must not change.
    made = TaskBatches(
        source.tokenized,
        task=task,
        name=source.name,
        batch_size=source.batch_size,
        seed=source.seed,
        composition=composition_of(config, source.name),
        order_name=f"affinity heads {source.name}",
    )
    count = min(made.per_pass, -(-HEAD_ROWS // made.batch_size))
    # A batch without a labeled row has no loss.
    batches = [batch for batch in (made.next().to(run.device) for _ in range(count)) if batch.units]
    with evaluating(model), torch.no_grad():
        # The encoder runs once for each batch, because only the head changes below.
        parts = [(batch, model.states_of([task], batch)) for batch in batches]
    held = max(1, round(HELD_OUT * len(parts)))
    # A single batch has to serve for both.
    training, judging = (parts[held:], parts[:held]) if len(parts) > 1 else (parts, parts)
    head = model.head(task)
    # Copied, because a state dict refers to the parameters themselves.
    best, state, best_step = _loss_of(run, judging), copy.deepcopy(head.state_dict()), 0
    parameters = [parameter for parameter in head.parameters() if parameter.requires_grad]
    if parameters:
        # The peak rate that `make_optimizer` gives to heads.
        optimizer = torch.optim.AdamW(parameters, lr=config.optimizer.head_lr or 10 * config.optimizer.lr)
        every = max(1, len(training) // 2)
        devices = [run.device] if run.device.type == "cuda" else []
        # The head's dropout must not depend on what was drawn before, or a resumed measurement would differ.
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed_for(source.seed, "affinity heads", source.name))
            for step in range(1, min(HEAD_STEPS, HEAD_PASSES * len(training)) + 1):
                batch, states = training[(step - 1) % len(training)]
                model.eval()
                # In every step, because `_loss_of` leaves all modules in evaluation mode.
                head.train()
                optimizer.zero_grad(set_to_none=True)
                output = model.output(task, batch, model.features(task, batch, states))
                (model.losses(task, output, batch).sum() / batch.units).backward()
                optimizer.step()
                if batch.gold is not None:
                    head.observe(output.detach(), batch.gold)
                if step % every == 0:
                    loss = _loss_of(run, judging)
                    if loss < best:
                        best, state, best_step = loss, copy.deepcopy(head.state_dict()), step
        # The joint run must not start with gradients of this optimizer.
        for parameter in model.parameters():
            parameter.grad = None
        head.load_state_dict(state)
    return HeadFit(best, run.facts[task].guess, best_step)


@torch.no_grad()
def _loss_of(run: TrainingRun, parts: Sequence[tuple[Batch, HiddenStates]]) -> float:
    """Return the mean loss per unit of batches with the states of the encoder, without dropout."""
    total, units = 0.0, 0.0
    with evaluating(run.model):
        for batch, states in parts:
            output = run.model.output(batch.task, batch, run.model.features(batch.task, batch, states))
            total += float(run.model.losses(batch.task, output, batch).double().sum())
            units += batch.units
    return total / units if units else math.nan


@dataclass(frozen=True)
class Position:
    """Report that the joint run stands after `step` updates, ready to be measured."""

    step: int


def joint_run(
    run: TrainingRun,
    folder: Path,
    wanted: Sequence[int],
    fitted: Callable[[dict[str, dict[str, float]]], None],
    stop: Callable[[], bool],
    keep: Collection[int] = (),
) -> Iterator[Position | str]:
    """Fit the heads, then train, and yield the position before the first update and after each; lines say what takes long.

    The run resumes from its last checkpoint. It ends early when `stop` returns True, after saving, and after the last of the
    `wanted` positions.

    Args:
        run: set up with `joint_config`.
        folder: of the joint run.
        wanted: updates after which something is measured.
        fitted: receives the result of fitting the heads, by task.
        keep: updates after which a checkpoint is saved in any case, because a measurement there takes long.
    """
    make_folder(folder)
    (folder / CHECKPOINTS).mkdir(exist_ok=True)
    last = max(wanted)
    # Set-up draws a number of values that depends on the plugins.
    torch.manual_seed(run.config.training.seed)
    saved, _ = checkpoint.latest(folder / CHECKPOINTS)
    if saved is None:
        yield "fitting the heads on features of the frozen encoder"
        fits = {name: fit_head(run, task) for task, name in enumerate(run.model.names)}
        # Before the first checkpoint: where there is one, the heads are not fitted again.
        fitted({name: asdict(fit) for name, fit in fits.items()})
        progress = Progress(cursors=[0] * len(run.tasks))
        save(run, folder, progress)
    else:
        progress = restore(run, saved)
    log, _ = open_log(folder, progress.step)
    with log:
        run.model.train()
        while True:
            yield Position(progress.step)
            if progress.step >= last:
                break
            stopping = stop()
            if not stopping:
                yield from enter_stage(run, folder, progress)
                take_step(run, progress, log)
            # Saved on a stop even without an update, so that the next call is at the same position.
            if stopping or progress.step % SAVE_EVERY == 0 or progress.step in keep:
                save(run, folder, progress)
            if stopping:
                return
    # If measures are added later, the run is repeated from the start, with the same numbers.
    discard(folder / CHECKPOINTS)
