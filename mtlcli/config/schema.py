"""The configuration of a run: every key, its default, bounds and meaning."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from mtlcli import registry
from mtlcli.config.evaluation_sets import EvaluationSet, EvaluationSets, Where
from mtlcli.config.values import column_name, listed, share_of, weights_of_classes
from mtlcli.metrics.titles import title_of
from mtlcli.registry import FAMILIES, Entry

TASK_FILES = ("train", "dev", "test")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Choice(BaseModel):
    """Select a plugin by name, with its options; a bare string stands for the name alone.

    A choice caches the class of its plugin: `resolve` imports it, and a stored configuration imports it at the first use.
    """

    # Keys that are not fields are the options of the plugin, which `check` validates.
    model_config = ConfigDict(extra="allow")
    family: ClassVar[str]
    name: str = Field(description="name of the plugin, or package.module:Class; other keys are its options")
    # Private, so that neither is written to config.yaml.
    _plugin: type | None = PrivateAttr(None)
    _path: str = PrivateAttr("")

    @model_validator(mode="before")
    @classmethod
    def _bare_string(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    # pydantic would also compare the private attributes.
    def __eq__(self, other: object) -> bool:
        """Compare name, settings and options: a choice equals itself read back, whether its plugin was imported or not."""
        return type(self) is type(other) and self.model_dump() == other.model_dump()

    @property
    def options(self) -> dict[str, Any]:
        """Return the options of the plugin: every key that is not one of the core's own."""
        return self.__pydantic_extra__ or {}

    @property
    def path(self) -> str:
        """Return the dotted path of the choice in a recipe, for messages."""
        return self._path or FAMILIES[self.family].key or FAMILIES[self.family].kind

    @property
    def plugin(self) -> Any:
        """Return the class of the plugin.

        Raises:
            MtlError: the plugin is unknown or cannot be imported.
        """
        # Imported late, so that commands such as `mtl report` read a run whose plugin is no longer installed.
        if self._plugin is None:
            self._plugin = registry.load(self.family, self.name, self.path)
        return self._plugin

    @property
    def entry(self) -> Entry:
        """Return the registry's entry of the plugin, without importing it. Raise MtlError if it is unknown."""
        return registry.find(self.family, self.name, self.path)

    def check(self, where: str, also_known: Sequence[str] = ()) -> list[tuple[str, str]]:
        """Import the plugin and validate its options, filling in their defaults.

        Args:
            where: opens the error line about the plugin itself.
            also_known: further keys to suggest for an unknown option.

        Returns:
            The errors as (option, message) pairs.

        Raises:
            MtlError: the plugin is unknown or cannot be imported.
        """
        self._plugin = registry.load(self.family, self.name, where)
        options, errors = registry.check_options(self._plugin, self.name, self.options, also_known)
        if not errors:
            # As extra values of pydantic, so that `model_dump` writes them beside the fields.
            self.__pydantic_extra__ = options
        return errors

    def make(self, *facts: object) -> Any:
        """Build the plugin from the facts of its family and the options of this choice.

        Raises:
            MtlError: the plugin is unknown, or cannot work with these facts.
        """
        plugin = self.plugin
        with registry.plugin_call(plugin, "__init__", "an instance, or MtlError where it cannot work in this run"):
            return plugin(*facts, **self.options)


class HeadChoice(Choice):
    """Select a head and its options; without a name, the head that the task proposes."""

    family = "heads"
    name: str = Field("", description="name of the head; the default is the one the task proposes for its encoding")


class MetricChoice(Choice):
    """Select a metric and its options. Without options it is written as its name."""

    family = "metrics"

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> Any:
        values = handler(self)
        return values if len(values) > 1 else self.name

    def title(self, *, weighted: bool = False) -> str:
        """Return the title of the metric in results, such as `calibration-error[bins=10]`, see `metrics.titles`.

        Raises:
            MtlError: the plugin is unknown or cannot be imported.
        """
        fields = registry.options_model(self.plugin).model_fields
        defaults = {name: field.default for name, field in fields.items() if not field.is_required()}
        return title_of(self.name, self.options, defaults, weighted=weighted)


class SchedulerChoice(Choice):
    """Select a scheduler and its options."""

    family = "schedulers"


class BalancerChoice(Choice):
    """Select a loss balancer and its options."""

    family = "balancers"


class GradientRegularizerChoice(Choice):
    """Select a gradient regularizer and its options."""

    family = "gradient_regularizers"


class RegularizerChoice(Choice):
    """Select a regularizer and its options."""

    family = "regularizers"


class TrackerChoice(Choice):
    """Select a tracker and its options."""

    family = "trackers"


class ArchitectureChoice(Choice):
    """Select an architecture and its options."""

    family = "architectures"


def _texts(value: Any) -> Any:
    if isinstance(value, str):
        return listed(value)
    return [column_name(item) for item in value] if isinstance(value, list) else column_name(value)


def _label_columns(value: Any) -> Any:
    """Return the names of one column or of several; `[a, b]` and `a, b` name two."""
    names = _texts(value)
    # One column has one form, so that `label: [a]` and `label: a` are the same configuration.
    return names[0] if isinstance(names, list) and len(names) == 1 else names


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str | dict) else value


def _metrics(value: Any) -> Any:
    """Return a list of metrics; `a, b` names two."""
    return listed(value) if isinstance(value, str) else [value] if isinstance(value, dict) else value


def _texts_by_text(value: Any) -> Any:
    return (
        {str(column_name(key)): column_name(item) for key, item in value.items()} if isinstance(value, dict) else value
    )


def _file_or_share(value: Any) -> Any:
    """Check a share of the training rows.

    Raises:
        ValueError: a number without a percent sign, or a share that leaves no rows for training or for evaluation.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    share = share_of(value) if isinstance(value, str) else None
    if is_number or (share is not None and not 0 < share < 1):
        raise ValueError("expected a file, or a share of the training rows between 0% and 100%, such as 10%")
    return value


def _form_of_rows(value: Any) -> str:
    # A plain union would report an error of every form; with a tag, only that of the form that was written.
    return SEVERAL_SETS if isinstance(value, dict) else ONE_FILE


ONE_FILE, SEVERAL_SETS = "one file", "several sets"
"""Tags of the two forms of `dev` and `test`, which `Places.explain` leaves out of a path."""
DevRows = Annotated[
    Annotated[str, BeforeValidator(_file_or_share), Tag(ONE_FILE)] | Annotated[EvaluationSets, Tag(SEVERAL_SETS)],
    Discriminator(_form_of_rows),
]
TestRows = Annotated[
    Annotated[str, Tag(ONE_FILE)] | Annotated[EvaluationSets, Tag(SEVERAL_SETS)], Discriminator(_form_of_rows)
]


Encoding = Literal["single", "cross", "bi", "words", "choices", "marked", "spans"]
WHOLE_ROWS = ("single", "cross", "bi")
"""Encodings of rows without items, for heads that predict one thing for a row."""
Columns = Annotated[list[str], BeforeValidator(_texts)]


class TaskConfig(Choice):
    """Configure one task of the run. Keys that are not listed here are options of the task's plugin."""

    family = "tasks"
    name: str = Field(
        "", description="kind of task, a plugin; the default is the plugin with the task's own name", alias="kind"
    )
    head: HeadChoice | None = Field(
        None, description="the head; the default is the one the task proposes for its encoding"
    )
    encoding: Encoding | None = Field(
        None,
        description="how texts reach the encoder: single, cross (a pair in one sequence), bi (each text of a pair alone), words (one "
        "text whose words are read one by one), choices (a sequence for each choice), marked (two spans of a text) or spans (a "
        "question with each part of a long text)",
    )
    layer: int | None = Field(
        None, description="hidden layer that the head reads; the default is the head's own, or encoder.layer"
    )
    words: Literal["letters", "spaces"] = Field(
        "letters",
        description="how raw text is cut into words: at changes between letters and other characters, or at spaces alone",
    )
    choices: Columns | None = Field(
        None, description="columns of the choices; the default is the column choices, a list of JSON or Parquet"
    )
    markers: bool = Field(
        True, description="whether @ and # are put around the two marked spans of a text, where the encoder reads them"
    )
    overlap: int | None = Field(
        None,
        ge=0,
        description="tokens that the parts of a text share which is longer than the encoder reads and is read in parts; the default "
        "is a quarter of a part",
    )
    train: str | None = Field(
        None, description="training file (CSV, TSV, JSONL, JSON, Parquet, CoNLL columns or CoNLL-U)"
    )
    format: Literal["csv", "tsv", "jsonl", "json", "parquet", "conll", "conllu"] | None = Field(
        None, description="format of the files; the default is what their names end in"
    )
    dev: DevRows | None = Field(
        None,
        description="file to evaluate on during training, a share of the training rows to hold out, such as 10%, or several sets "
        "by name: {matched: a.tsv, mismatched: b.tsv}",
    )
    select_dev: Columns | None = Field(
        None,
        description="of several dev sets, those whose mean is the task's metric in the score that selects checkpoints; the default "
        "is all",
    )
    dev_seed: int = Field(
        0, ge=0, description="seed that selects the rows which dev: 10% holds out; the same for all training seeds"
    )
    test: TestRows | None = Field(None, description="file that only `mtl eval` reads, or several sets by name")
    where: Where | None = Field(
        None,
        description="rows to keep, by column: the text or texts of which a row must have one, such as {language: [de, fr]}; for "
        "dev and test also in each set: {de: {file: dev.tsv, where: {language: de}}}",
    )
    group: Annotated[str, BeforeValidator(column_name)] | None = Field(
        None,
        description="column that names where a row comes from, such as a document: intervals and tests resample whole groups, and "
        "dev: 10% keeps a group on one side",
    )
    text: Columns | None = Field(None, description="column or columns of the text, by header name or number from 0")
    label: Annotated[str | list[str], BeforeValidator(_label_columns)] | None = Field(
        None, description="column of the label, by header name or number from 0; a list for labels in several columns"
    )
    header: bool = Field(True, description="whether the first line names the columns")
    labels: Columns | None = Field(
        None, description="the classes in order; the default is the classes of the training rows, sorted"
    )
    positive: Annotated[str, BeforeValidator(column_name)] | None = Field(
        None, description="the class that f1, precision, recall, roc-auc and average-precision measure"
    )
    aliases: Annotated[dict[str, str], BeforeValidator(_texts_by_text)] | None = Field(
        None, description="other spellings of labels: the label that each text in the file stands for"
    )
    normalize_labels: bool = Field(
        False, description="read labels that differ only in case, invisible characters or Unicode form as one class"
    )
    no_label: Columns | None = Field(
        None, description='texts that mark a row without a label, such as ["-", "-1"]; these rows are left out'
    )
    unlabeled: Literal["keep"] | None = Field(
        None,
        description="keep: a row with an empty label is no error; the default for tasks that read the same training file",
    )
    range: Annotated[tuple[float, float], BeforeValidator(listed)] | None = Field(
        None, description="lowest and highest score; the default is the range of the training rows"
    )
    metrics: Annotated[list[MetricChoice], BeforeValidator(_metrics), Field(min_length=1)] | None = Field(
        None,
        description="metrics by name, or with options such as {name: calibration-error, bins: 10}; the first selects checkpoints; "
        "the default is the metrics of the kind of task",
    )
    weighted_metrics: bool = Field(
        False, description="whether metrics on dev and test count each row by its weight, the column that weight names"
    )
    class_weights: Annotated[
        Literal["auto", "auto-sqrt"] | dict[str, float] | None, BeforeValidator(weights_of_classes)
    ] = Field(
        None,
        description="factors of the training loss by class: auto (inversely proportional to the class's share of the training rows), "
        "auto-sqrt (to its square root), both at most 100 and with a mean of 1 per row, or numbers by class name, 1 for the others; for "
        "multi-label, factors where a label holds, and auto is the number of rows without it for each row with it",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of each label that is spread evenly over all classes in training"
    )
    focal: float | None = Field(
        None,
        ge=0,
        le=20,
        description="gamma of the focal loss, (1 - p) ** gamma * cross-entropy; excludes label_smoothing",
    )
    weight: Annotated[str, BeforeValidator(column_name)] | None = Field(
        None,
        description="column with factors >= 0 of the training rows' losses, by header name or number from 0; they are scaled to a "
        "mean of 1",
    )
    sampling: Literal["balanced"] | None = Field(
        None,
        description="balanced: every pass draws the same number of rows of each class; the default is every row once",
    )
    auxiliary: bool = Field(
        False,
        description="train this task without counting it: it is not evaluated, and has no part in the score that selects checkpoints",
    )
    max_rows: int | None = Field(None, ge=1, description="train on this many rows, drawn with the seed")
    stratify: bool = Field(False, description="whether classes keep their shares among the rows that max_rows draws")
    batch_size: int | None = Field(
        None, ge=1, description="rows per micro-batch of this task; the default is training.batch_size"
    )
    on_bad_row: Literal["error", "skip"] | None = Field(
        None, description="stop at a row that cannot be read, or skip and count it"
    )

    # `kind` in a recipe is `name` in Python.
    model_config = ConfigDict(extra="allow", populate_by_name=True, allow_inf_nan=False)

    @property
    def dev_share(self) -> float | None:
        """The share of the training rows that is held out as dev; None where dev is something else."""
        return share_of(self.dev) if isinstance(self.dev, str) else None

    @property
    def names_files(self) -> bool:
        """True if the configuration names a file for a split."""
        return any(self.file_of(split) is not None for kind in TASK_FILES for split in self.splits_of(kind))

    def sets_of(self, kind: str) -> dict[str, EvaluationSet]:
        """Return the evaluation sets of `dev` or `test` by name; none where it is one file, or not configured."""
        value = getattr(self, kind) if kind in TASK_FILES else None
        return value if isinstance(value, dict) else {}

    def splits_of(self, kind: str) -> tuple[str, ...]:
        """Return the splits of a kind: (`dev`,), or those of its sets such as (`dev.matched`, `dev.mismatched`)."""
        return tuple(f"{kind}.{name}" for name in self.sets_of(kind)) or (kind,)

    def selecting_splits(self) -> tuple[str, ...]:
        """Return the dev splits that count in the score that selects checkpoints."""
        if self.select_dev is None:
            return self.splits_of("dev")
        return tuple(split for split in self.splits_of("dev") if split.partition(".")[2] in self.select_dev)

    def file_of(self, split: str) -> str | None:
        """Return the file that the configuration names for a split; None where it names none, or a share for dev."""
        kind, _, name = split.partition(".")
        if name:
            return self.sets_of(kind)[name].file
        value = getattr(self, kind)
        return value if isinstance(value, str) and share_of(value) is None else None

    def without_files(self) -> "TaskConfig":
        """Return the section without files, for rows of another folder; sets stay where they are filters alone."""
        kept = {
            kind: sets if (sets := self.sets_of(kind)) and not any(part.file for part in sets.values()) else None
            for kind in TASK_FILES
        }
        return self.model_copy(update=kept)

    def where_of(self, split: str) -> dict[str, list[str]]:
        """Return the filter of a split's rows, empty for none."""
        kind, _, name = split.partition(".")
        of_set = self.sets_of(kind)[name].where if name else None
        return {**(self.where or {}), **(of_set or {})}

    def part_of(self, split: str) -> tuple[float, float] | None:
        """Return the part of the rows that a split has, None for all."""
        kind, _, name = split.partition(".")
        return self.sets_of(kind)[name].part if name else None


class EncoderConfig(Choice):
    """Configure the encoder. Keys that are not listed here are options of the encoder's plugin."""

    family = "encoders"
    name: str = Field(
        FAMILIES["encoders"].default, description="an encoder plugin, a model folder, or the id of a model on the Hub"
    )
    pooling: Literal["cls", "mean", "max"] = Field(
        "mean", description="how the vectors of a text's tokens become one: first token, mean or maximum"
    )
    layer: int = Field(
        -1, description="hidden layer that the heads read: -1 the last, -2 the one before it, 0 the embeddings"
    )
    max_length: int = Field(
        128, ge=4, description="longest input in tokens, for a pair both texts together; longer inputs are truncated"
    )


class OptimizerConfig(_Strict):
    """Configure AdamW, with one group for the encoder, one for the heads and one for the parameters of plugins."""

    lr: float = Field(5e-5, gt=0, description="peak learning rate of the encoder")
    head_lr: float | None = Field(
        None, gt=0, description="peak learning rate of the heads; the default is ten times lr"
    )
    # The rate of the weights of GradNorm in Chen et al. (2018).
    balancer_lr: float = Field(
        0.025, gt=0, description="peak learning rate of the parameters of balancer, scheduler and regularizers"
    )
    weight_decay: float = Field(
        0.01, ge=0, description="weight decay of weight matrices; biases, norms and plugins' parameters have none"
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="decay rate of AdamW's first-moment average")
    beta2: float = Field(0.999, ge=0, lt=1, description="decay rate of AdamW's second-moment average")
    eps: float = Field(1e-8, gt=0, description="term that AdamW adds to the denominator for numerical stability")
    warmup: float = Field(0.06, ge=0, le=1, description="share of the steps over which the rate rises from zero")
    schedule: Literal["linear", "cosine", "constant", "plateau"] = Field(
        "linear",
        description="decay of the rate after the warm-up; plateau lowers it whenever the dev losses keep rising",
    )
    plateau_factor: float = Field(
        0.5, gt=0, lt=1, description="factor by which schedule plateau lowers the rate each time"
    )
    plateau_patience: int = Field(
        3, ge=1, description="evaluations in a row with a higher loss after which schedule plateau lowers the rate"
    )
    clip: float | None = Field(
        1.0, gt=0, description="largest global norm of the combined gradient; null for no clipping"
    )


class TrainingConfig(_Strict):
    """Configure length, batches, evaluation, checkpoints and device of the run."""

    epochs: int | None = Field(None, ge=1, description="passes over the largest task; the default is 3; excludes steps")
    steps: int | None = Field(None, ge=1, description="number of optimizer updates; excludes epochs")
    steps_per_epoch: int | None = Field(
        None, ge=1, description="steps per epoch; the default is what one pass over the largest task takes"
    )
    batch_size: int = Field(16, ge=1, description="rows per micro-batch")
    micro_batches: int = Field(
        1, ge=1, description="micro-batches per step: of each task it visits, or draws of a sampling scheduler"
    )
    eval_every: Literal["epoch"] | int = Field(
        "epoch", description="evaluate on dev every epoch, or every N steps with a number N"
    )
    save_every: int | None = Field(
        None, ge=1, description="save a checkpoint every N steps in addition to those after evaluations"
    )
    keep_last: int = Field(1, ge=1, description="number of recent checkpoints kept besides the best one")
    select_by: str = Field(
        "mean",
        description="score that selects the best checkpoint: mean of the primary metrics, normalized-mean (each on a scale "
        "from 0 to 1), or TASK.METRIC",
    )
    patience: int | None = Field(None, ge=1, description="stop after N evaluations without improvement")
    seed: int = Field(42, ge=0, description="seed of every random number of the run")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto is bf16 autocast on GPUs that support it, else fp32"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 or mps")
    feature_memory: float = Field(
        2.0,
        ge=0,
        description="GB of hidden states cached while the encoder is frozen, so that each text is encoded once; 0 for none",
    )
    dropout_by: Literal["auto", "row", "stream"] = Field(
        "auto",
        description="what decides which numbers dropout zeroes: row (seed, step and row, whatever the batch and the number of "
        "processes), or stream (torch's generator); auto is stream with one process, and with several row for all but attention "
        "weights, which a fused kernel drops faster",
    )
    sharding: Literal["none", "full"] = Field(
        "none",
        description="full: several processes divide the parameters of the encoder, with gradients and optimizer state, for an encoder "
        "beyond the memory of one GPU (FSDP2)",
    )
    on_nan: Literal["stop", "skip"] = Field(
        "stop", description="at a loss or gradient that is not finite: stop, or skip the step and count it"
    )


class Config(_Strict):
    """Configure a run. `config.yaml` in the run folder holds the resolved configuration."""

    tasks: dict[str, TaskConfig] = Field(
        default_factory=dict, description="the tasks by name; a list of names, or one name, uses their defaults"
    )
    data: str | None = Field(None, description="folder with the files that the tasks expect")
    sample: bool = Field(False, description="use the made-up corpus that comes with mtlcli")
    init: str | None = Field(
        None,
        description="folder of a finished run to start from: its encoder, and its heads for tasks of the same name",
    )
    encoder: EncoderConfig = Field(EncoderConfig(), description="the encoder, by name or with settings")
    architecture: ArchitectureChoice = Field(
        ArchitectureChoice(name=FAMILIES["architectures"].default),
        description="how the encoder's features reach the heads, and what the tasks share",
    )
    scheduler: SchedulerChoice = Field(
        SchedulerChoice(name=FAMILIES["schedulers"].default), description="which tasks each step visits"
    )
    balancer: BalancerChoice = Field(
        BalancerChoice(name=FAMILIES["balancers"].default),
        description="how the tasks' losses are weighted; BALANCER+GRADIENT_REGULARIZER sets both keys",
    )
    gradient_regularizer: GradientRegularizerChoice | None = Field(
        None, description="how the tasks' gradients are combined; the default is their weighted sum"
    )
    regularizers: Annotated[list[RegularizerChoice], BeforeValidator(_one_or_more)] = Field(
        default_factory=list, description="extra losses and pulls on the weights, as a list or a single one"
    )
    trackers: Annotated[list[TrackerChoice], BeforeValidator(_one_or_more)] = Field(
        default_factory=list,
        description="programs such as TensorBoard that show the run while it trains, as a list or a single one; see trackers.md",
    )
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="learning rates, decay and clipping")
    training: TrainingConfig = Field(
        TrainingConfig(), description="length, batches, evaluation, checkpoints and device"
    )

    @model_validator(mode="after")
    def _name_choices(self) -> "Config":
        """Set the paths of choices below a task or in a list, which do not follow from their class."""
        for index, regularizer in enumerate(self.regularizers):
            regularizer._path = f"regularizers.{index}"
        for index, tracker in enumerate(self.trackers):
            tracker._path = f"trackers.{index}"
        for name, task in self.tasks.items():
            task._path = f"tasks.{name}"
            if task.head is not None:
                task.head._path = f"tasks.{name}.head"
            for index, metric in enumerate(task.metrics or ()):
                metric._path = f"tasks.{name}.metrics.{index}"
        return self

    def choices(self, family: str) -> tuple[Choice, ...]:
        """Return the plugins that the key of a family selects, in order: none, one, or those of a list."""
        value = getattr(self, FAMILIES[family].key)
        return () if value is None else tuple(value) if FAMILIES[family].many else (value,)

    def head_of(self, task: str) -> HeadChoice:
        """Return the head of a task. Raise ValueError if the configuration is not resolved."""
        head = self.tasks[task].head
        if head is None:
            raise ValueError(f"tasks.{task}.head: the configuration is not resolved")
        return head

    def plain(self) -> dict[str, Any]:
        """Return the configuration as plain values that read back as the same configuration."""
        return self.model_dump(mode="json", by_alias=True)

    def without_trackers(self) -> "Config":
        """Return the configuration without its trackers, which are no part of what the run computes."""
        return self.model_copy(update={"trackers": []})


def is_encoder_plugin(name: str) -> bool:
    """Return whether an encoder's name is a plugin's, rather than a folder or an id on the Hub."""
    # `package.module:Class` is a plugin, unless there is a folder of this name.
    return name in registry.names("encoders") or (":" in name and not Path(name).exists())


def default_sections() -> Mapping[str, dict[str, Any]]:
    """Return the section of every family that has a default plugin, in the form of a recipe."""
    return {family.key: {"name": family.default} for family in FAMILIES.values() if family.key and family.default}
