"""The configuration of a run: every key, its default, bounds and meaning."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mtlcli import registry

TASK_FILES = ("train", "dev", "test")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Choice(BaseModel):
    """A plugin by name with its options; a bare string stands for the name alone."""

    model_config = ConfigDict(extra="allow")
    name: str

    @model_validator(mode="before")
    @classmethod
    def _bare_string(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """What was given besides the core's own fields."""
        return self.__pydantic_extra__ or {}


class HeadChoice(Choice):
    """A head; without a name, the one that the task proposes, with these options."""

    name: str = ""


def _texts(value: Any) -> Any:
    if isinstance(value, str):
        return listed(value)
    return [_column(item) for item in value] if isinstance(value, list) else _column(value)


def listed(value: Any) -> Any:
    """`a, b` of `--set`, where a list is expected."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _column(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str | dict) else value


Encoding = Literal["single", "cross", "bi"]
Columns = Annotated[list[str], BeforeValidator(_texts)]


class TaskConfig(Choice):
    """One task of the run. Keys that are not listed here are options of the task's plugin."""

    name: str = Field(
        "", description="the kind of task, a plugin; by default the one of the task's own name", alias="kind"
    )
    head: HeadChoice | None = Field(None, description="the head; by default the one the task proposes for its encoding")
    encoding: Encoding | None = Field(
        None, description="how the texts reach the encoder: single, cross (pair in one sequence) or bi (each alone)"
    )
    layer: int | None = Field(
        None, description="hidden layer that this task's head reads; by default its head's own, or encoder.layer"
    )
    train: str | None = Field(None, description="training file (CSV, TSV, JSONL)")
    dev: str | None = Field(None, description="file to evaluate on while training")
    test: str | None = Field(None, description="file that only `mtl eval` reads")
    text: Columns | None = Field(None, description="column(s) of the text, by header name or number from 0")
    label: Annotated[str, BeforeValidator(_column)] | None = Field(
        None, description="column of the label, by header name or number from 0"
    )
    header: bool = Field(True, description="whether the first line names the columns")
    labels: Columns | None = Field(
        None, description="the classes in order; by default those of the training rows, sorted"
    )
    range: Annotated[tuple[float, float], BeforeValidator(listed)] | None = Field(
        None, description="lowest and highest score; by default those of the training rows"
    )
    metrics: Columns | None = Field(
        None,
        min_length=1,
        description="what it is measured by, the first one in choosing checkpoints; by default its kind's",
    )
    max_rows: int | None = Field(None, ge=1, description="train on this many rows, drawn with the seed")
    batch_size: int | None = Field(
        None, ge=1, description="rows per micro-batch of this task; by default training.batch_size"
    )
    on_bad_row: Literal["error", "skip"] | None = Field(
        None, description="stop at a row that cannot be read, or skip and count it"
    )

    model_config = ConfigDict(extra="allow", populate_by_name=True, allow_inf_nan=False)


class EncoderConfig(Choice):
    """The encoder. Keys that are not listed here are options of the encoder's plugin."""

    name: str = "tiny"
    pooling: Literal["cls", "mean", "max"] = "mean"
    layer: int = Field(-1, description="hidden layer the heads read: -1 the last, -2 the one before, 0 the embeddings")
    max_length: int = Field(
        128, ge=4, description="longest input in tokens, a pair together; longer ones are truncated"
    )


class OptimizerConfig(_Strict):
    """AdamW with one group for the encoder, one for the heads and one for what the balancer learns."""

    lr: float = Field(5e-5, gt=0, description="peak learning rate of the encoder")
    head_lr: float | None = Field(None, gt=0, description="of the heads; by default ten times lr")
    balancer_lr: float = Field(0.025, gt=0, description="of what balancer, scheduler and regularizers learn")
    weight_decay: float = Field(0.01, ge=0, description="on weight matrices only: not on biases, norms or the balancer")
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    warmup: float = Field(0.06, ge=0, le=1, description="share of the steps over which the rate rises from zero")
    schedule: Literal["linear", "cosine", "constant", "plateau"] = Field(
        "linear", description="how the rate falls after the warm-up; plateau: each time the losses on dev keep rising"
    )
    plateau_factor: float = Field(
        0.5, gt=0, lt=1, description="of schedule plateau: what a fall multiplies the rate by"
    )
    plateau_patience: int = Field(
        3, ge=1, description="of schedule plateau: evaluations in a row with a higher loss that make the rate fall"
    )
    clip: float | None = Field(1.0, gt=0, description="largest global norm of the combined gradient; null: none")


class TrainingConfig(_Strict):
    """How long, how large, how often and where."""

    epochs: int | None = Field(None, ge=1, description="by default 3; not together with steps")
    steps: int | None = Field(None, ge=1, description="total number of optimizer updates")
    steps_per_epoch: int | None = Field(None, ge=1, description="by default what one pass over the largest task needs")
    batch_size: int = Field(16, ge=1, description="rows per micro-batch")
    micro_batches: int = Field(
        1, ge=1, description="micro-batches per step: of each task it visits, or draws of a sampling scheduler"
    )
    eval_every: Literal["epoch"] | int = Field(
        "epoch", description="evaluate on dev every epoch or every so many steps"
    )
    save_every: int | None = Field(None, ge=1, description="also save a checkpoint every so many steps")
    keep_last: int = Field(1, ge=1, description="checkpoints kept besides the best one")
    select_by: str = Field(
        "mean", description="mean of the primary metrics, normalized-mean (each from 0 to 1), or TASK.METRIC"
    )
    patience: int | None = Field(None, ge=1, description="stop after this many evaluations without a better one")
    seed: int = Field(42, ge=0)
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 autocast on GPUs that have it, else fp32"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    feature_memory: float = Field(
        2.0,
        ge=0,
        description="GB of hidden states kept while the encoder is frozen, so that it reads every text once; 0: none",
    )
    on_nan: Literal["stop", "skip"] = Field(
        "stop", description="when a loss or gradient is not finite: stop, or skip the step and count"
    )


class Config(_Strict):
    """The whole run. `config.yaml` in the run folder is this, resolved."""

    tasks: dict[str, TaskConfig] = Field(default_factory=dict)
    data: str | None = Field(None, description="folder with the files that the tasks expect")
    sample: bool = Field(False, description="use the made-up corpus that comes with mtlcli")
    init: str | None = Field(
        None,
        description="folder of a finished run to start from: its encoder, and its heads for tasks of the same name",
    )
    encoder: EncoderConfig = EncoderConfig()
    architecture: Choice = Choice(name="hard-sharing")
    scheduler: Choice = Choice(name="round-robin")
    balancer: Choice = Choice(name="equal")
    gradient_regularizer: Choice | None = None
    regularizers: Annotated[list[Choice], BeforeValidator(_one_or_more)] = Field(default_factory=list)
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()

    def plain(self) -> dict[str, Any]:
        """The configuration as plain values that read back as the same configuration."""
        return self.model_dump(mode="json", by_alias=True)


# sections in which saying nothing, `training:` alone, is the same as leaving them out


def is_encoder_plugin(name: str) -> bool:
    """Whether an encoder's name is a plugin's, rather than a folder or a hub id."""
    return name in registry.names("encoders") or (":" in name and not Path(name).exists())
