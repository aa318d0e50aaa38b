"""The plugin families, one row each, and the plugins that come with mtlcli."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Describe one kind of plugin to the rest of mtlcli, without importing a plugin.

    Attributes:
        name: the family's name, in the plural; its entry-point group is `mtlcli.NAME`.
        base: the class that its plugins derive from, as `package.module:Class`.
        built_in: the plugins that come with mtlcli, by name, as `package.module:Class`.
        example: a command that uses the plugin {name}.
        key: the key of a recipe that selects a plugin; empty if a task or its head selects it.
        default: the plugin used if a recipe selects none; empty for none.
        many: whether the key holds a list of plugins.
        flag: the flag that several families share, so that their names must differ; empty for a family with its own names.
        is_method: whether studies compare its plugins and `mtl plugins combinations` pairs them.
        declares: the class attributes in which its plugins state what they need and provide.
    """

    name: str
    base: str
    built_in: Mapping[str, str]
    example: str
    key: str = ""
    default: str = ""
    many: bool = False
    flag: str = ""
    is_method: bool = False
    declares: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Return the word for one of its plugins in a message: `gradient regularizer`."""
        return self.name.removesuffix("s").replace("_", " ")


# In the order of `mtl plugins list`. Classes are given as texts, so that listing them imports nothing.
_ROWS = (
    Family(
        name="tasks",
        base="mtlcli.tasks.base:Task",
        declares=("pair", "target", "heads", "metrics", "files"),
        example="mtl train --task {name} --sample --output runs/{name}",
        built_in={
            "sst": "mtlcli.tasks.sst:SST",
            "cfimdb": "mtlcli.tasks.cfimdb:CFIMDB",
            "quora": "mtlcli.tasks.quora:Quora",
            "sts": "mtlcli.tasks.sts:STS",
            "classification": "mtlcli.tasks.kinds:Classification",
            "regression": "mtlcli.tasks.kinds:Regression",
            "pair-classification": "mtlcli.tasks.kinds:PairClassification",
            "pair-regression": "mtlcli.tasks.kinds:PairRegression",
            "nli": "mtlcli.tasks.nli:NLI",
            "tagging": "mtlcli.tasks.kinds:Tagging",
            "ordinal": "mtlcli.tasks.ordinal:Ordinal",
            "pair-ordinal": "mtlcli.tasks.ordinal:PairOrdinal",
            "label-distribution": "mtlcli.tasks.label_distribution:LabelDistribution",
            "pair-label-distribution": "mtlcli.tasks.label_distribution:PairLabelDistribution",
            "multiple-choice": "mtlcli.tasks.multiple_choice:MultipleChoice",
            "span-extraction": "mtlcli.tasks.span_extraction:SpanExtraction",
            "relation": "mtlcli.tasks.relation:Relation",
            "multi-label": "mtlcli.tasks.kinds:MultiLabel",
            "pair-multi-label": "mtlcli.tasks.kinds:PairMultiLabel",
            "unlabeled": "mtlcli.tasks.unlabeled:Unlabeled",
            "pair-unlabeled": "mtlcli.tasks.unlabeled:PairUnlabeled",
        },
    ),
    Family(
        name="heads",
        base="mtlcli.heads.base:Head",
        declares=("sides", "composition"),
        example="mtl train --task sst --sample --set tasks.sst.head={name} --output runs/{name}",
        built_in={
            "linear": "mtlcli.heads.linear:Linear",
            "pair-concat": "mtlcli.heads.pair_concat:PairConcat",
            "cosine": "mtlcli.heads.cosine:Cosine",
            "mlp": "mtlcli.heads.mlp:MLP",
            "none": "mtlcli.heads.no_output:NoOutput",
            "pair-compare": "mtlcli.heads.pair_compare:PairCompare",
            "pair-mix": "mtlcli.heads.pair_mix:PairMix",
            "class-contrastive": "mtlcli.heads.class_contrastive:ClassContrastive",
            "tag-linear": "mtlcli.heads.tag_linear:TagLinear",
            "tag-crf": "mtlcli.heads.tag_crf:TagCRF",
            "ordinal-coral": "mtlcli.heads.ordinal_coral:OrdinalCoral",
            "ordinal-cumulative": "mtlcli.heads.ordinal_cumulative:OrdinalCumulative",
            "choice-linear": "mtlcli.heads.choice_linear:ChoiceLinear",
            "span-linear": "mtlcli.heads.span_linear:SpanLinear",
            "relation-linear": "mtlcli.heads.relation_linear:RelationLinear",
            "relation-mlp": "mtlcli.heads.relation_linear:RelationMLP",
        },
    ),
    Family(
        name="schedulers",
        base="mtlcli.schedulers.base:Scheduler",
        key="scheduler",
        default="round-robin",
        is_method=True,
        declares=("tasks_per_step", "chooses_rows", "cost"),
        example="mtl train --task sst --task sts --sample --scheduler {name} --output runs/{name}",
        built_in={
            "round-robin": "mtlcli.schedulers.round_robin:RoundRobin",
            "proportional": "mtlcli.schedulers.proportional:Proportional",
            "temperature": "mtlcli.schedulers.temperature:Temperature",
            "annealed": "mtlcli.schedulers.annealed:Annealed",
            "linear-temperature": "mtlcli.schedulers.linear_temperature:LinearTemperature",
            "all-together": "mtlcli.schedulers.all_together:AllTogether",
            "shuffled": "mtlcli.schedulers.shuffled:Shuffled",
            "fixed-ratio": "mtlcli.schedulers.fixed_ratio:FixedRatio",
            "similarity": "mtlcli.schedulers.similarity:Similarity",
            "bandit": "mtlcli.schedulers.bandit:Bandit",
            "worst-task": "mtlcli.schedulers.worst_task:WorstTask",
            "entropy": "mtlcli.schedulers.entropy:Entropy",
            "state-machine": "mtlcli.schedulers.state_machine:StateMachine",
            "curriculum": "mtlcli.schedulers.curriculum:Curriculum",
            "stages": "mtlcli.schedulers.stages:Stages",
        },
    ),
    Family(
        name="balancers",
        base="mtlcli.balancers.base:Balancer",
        key="balancer",
        default="equal",
        flag="--balancer",
        is_method=True,
        declares=("needs", "native_scale", "weighs_heads", "cost"),
        example="mtl train --task sst --task sts --sample --balancer {name} --output runs/{name}",
        built_in={
            "equal": "mtlcli.balancers.equal:Equal",
            "static": "mtlcli.balancers.static:Static",
            "inverse-size": "mtlcli.balancers.inverse_size:InverseSize",
            "uncertainty": "mtlcli.balancers.uncertainty:Uncertainty",
            "tchebycheff": "mtlcli.balancers.tchebycheff:Tchebycheff",
            "dwa": "mtlcli.balancers.dwa:DWA",
            "rlw": "mtlcli.balancers.rlw:RLW",
            "geometric": "mtlcli.balancers.geometric:Geometric",
            "gradnorm": "mtlcli.balancers.gradnorm:GradNorm",
            "imtl-l": "mtlcli.balancers.imtl_l:IMTLL",
            "epoch-sigmoid": "mtlcli.balancers.epoch_sigmoid:EpochSigmoid",
            "ratio-clamp": "mtlcli.balancers.ratio_clamp:RatioClamp",
            "distill-anneal": "mtlcli.balancers.distill_anneal:DistillAnneal",
            "famo": "mtlcli.balancers.famo:FAMO",
        },
    ),
    Family(
        name="gradient_regularizers",
        base="mtlcli.gradient_regularizers.base:GradientRegularizer",
        key="gradient_regularizer",
        flag="--balancer",
        is_method=True,
        declares=("needs", "native_scale", "reads_rows", "cost"),
        example="mtl train --task sst --task sts --sample --balancer {name} --output runs/{name}",
        built_in={
            "pcgrad": "mtlcli.gradient_regularizers.pcgrad:PCGrad",
            "gradvac": "mtlcli.gradient_regularizers.gradvac:GradVac",
            "mgda": "mtlcli.gradient_regularizers.mgda:MGDA",
            "cagrad": "mtlcli.gradient_regularizers.cagrad:CAGrad",
            "imtl-g": "mtlcli.gradient_regularizers.imtl_g:IMTLG",
            "nash-mtl": "mtlcli.gradient_regularizers.nash_mtl:NashMTL",
            "aligned-mtl": "mtlcli.gradient_regularizers.aligned_mtl:AlignedMTL",
            "graddrop": "mtlcli.gradient_regularizers.graddrop:GradDrop",
            "upgrad": "mtlcli.gradient_regularizers.upgrad:UPGrad",
        },
    ),
    Family(
        name="regularizers",
        base="mtlcli.regularizers.base:Regularizer",
        key="regularizers",
        many=True,
        is_method=True,
        declares=("needs", "cost"),
        example="mtl train --task sst --sample --regularizer {name} --output runs/{name}",
        built_in={
            "smart": "mtlcli.regularizers.smart:SMART",
            "bppo": "mtlcli.regularizers.bppo:BPPO",
            "successive": "mtlcli.regularizers.successive:Successive",
            "soft-sharing": "mtlcli.regularizers.soft_sharing:SoftSharingDistance",
            "representation-alignment": "mtlcli.regularizers.representation_alignment:RepresentationAlignment",
            "l2-sp": "mtlcli.regularizers.l2_sp:L2SP",
        },
    ),
    Family(
        name="encoders",
        base="mtlcli.encoders.base:EncoderSource",
        key="encoder",
        default="tiny",
        declares=("recommended",),
        example="mtl train --task sst --sample --encoder {name} --output runs/{name}",
        built_in={
            "tiny": "mtlcli.encoders.tiny:Tiny",
        },
    ),
    Family(
        name="architectures",
        base="mtlcli.architectures.base:Architecture",
        key="architecture",
        default="hard-sharing",
        is_method=True,
        example="mtl train --task sst --task sts --sample --set architecture={name} --output runs/{name}",
        built_in={
            "hard-sharing": "mtlcli.architectures.hard_sharing:HardSharing",
            "convolution": "mtlcli.architectures.convolution:Convolution",
            "soft-sharing": "mtlcli.architectures.soft_sharing:SoftSharing",
            "task-groups": "mtlcli.architectures.task_groups:TaskGroups",
            "sluice": "mtlcli.architectures.sluice:Sluice",
            "leaky-units": "mtlcli.architectures.leaky_units:LeakyUnits",
            "multi-level": "mtlcli.architectures.multi_level:MultiLevel",
            "feature-fusion": "mtlcli.architectures.feature_fusion:FeatureFusion",
            "shared-memory": "mtlcli.architectures.shared_memory:SharedMemory",
            "task-routing": "mtlcli.architectures.task_routing:TaskRouting",
            "adapters": "mtlcli.architectures.adapters:Adapters",
            "adapter-fusion": "mtlcli.architectures.adapter_fusion:AdapterFusion",
            "lora": "mtlcli.architectures.lora:LoRA",
            "ia3": "mtlcli.architectures.ia3:IA3",
            "ca-mtl": "mtlcli.architectures.ca_mtl:CAMTL",
            "hyperformer": "mtlcli.architectures.hyperformer:HyperFormer",
            "hypergrid": "mtlcli.architectures.hypergrid:HyperGrid",
            "prompt": "mtlcli.architectures.prompt:PromptTuning",
            "prefix": "mtlcli.architectures.prefix:PrefixTuning",
            "pals": "mtlcli.architectures.pals:PALs",
            "mmoe": "mtlcli.architectures.mmoe:MMoE",
            "ple": "mtlcli.architectures.ple:PLE",
            "mixlora": "mtlcli.architectures.mixlora:MixLoRA",
            "task-moe": "mtlcli.architectures.task_moe:TaskMoE",
            "feature-pipeline": "mtlcli.architectures.feature_pipeline:FeaturePipeline",
            "signal-pipeline": "mtlcli.architectures.signal_pipeline:SignalPipeline",
            "interactive": "mtlcli.architectures.interactive:Interactive",
            "cyclic": "mtlcli.architectures.cyclic:Cyclic",
            "adversarial": "mtlcli.architectures.adversarial:AdversarialSharedPrivate",
            "domain-adversarial": "mtlcli.architectures.domain_adversarial:DomainAdversarial",
        },
    ),
    Family(
        name="metrics",
        base="mtlcli.metrics.base:Metric",
        declares=("measures", "higher_is_better", "bounds"),
        example="mtl train --task sts --sample --set tasks.sts.metrics={name} --output runs/{name}",
        built_in={
            "accuracy": "mtlcli.metrics.accuracy:Accuracy",
            "macro-f1": "mtlcli.metrics.class_metrics:MacroF1",
            "weighted-f1": "mtlcli.metrics.class_metrics:WeightedF1",
            "mcc": "mtlcli.metrics.class_metrics:Matthews",
            "f1": "mtlcli.metrics.binary:F1",
            "binary-accuracy": "mtlcli.metrics.binary_accuracy:BinaryAccuracy",
            "precision": "mtlcli.metrics.binary:Precision",
            "recall": "mtlcli.metrics.binary:Recall",
            "roc-auc": "mtlcli.metrics.binary:RocAuc",
            "average-precision": "mtlcli.metrics.binary:AveragePrecision",
            "calibration-error": "mtlcli.metrics.calibration_error:CalibrationError",
            "pearson": "mtlcli.metrics.pearson:Pearson",
            "spearman": "mtlcli.metrics.spearman:Spearman",
            "exact-match": "mtlcli.metrics.exact_match:ExactMatch",
            "kendall": "mtlcli.metrics.kendall:Kendall",
            "mean-squared-error": "mtlcli.metrics.errors:MeanSquaredError",
            "rmse": "mtlcli.metrics.errors:RootMeanSquaredError",
            "mae": "mtlcli.metrics.errors:MeanAbsoluteError",
            "r2": "mtlcli.metrics.errors:R2",
            "span-f1": "mtlcli.metrics.span_f1:SpanF1",
            "span-f1-strict": "mtlcli.metrics.span_f1:StrictSpanF1",
            "span-precision": "mtlcli.metrics.span_f1:SpanPrecision",
            "span-recall": "mtlcli.metrics.span_f1:SpanRecall",
            "surface-f1": "mtlcli.metrics.surface_f1:SurfaceF1",
            "tag-accuracy": "mtlcli.metrics.tag_accuracy:TagAccuracy",
            "quadratic-weighted-kappa": "mtlcli.metrics.ordinal:QuadraticWeightedKappa",
            "within-one": "mtlcli.metrics.ordinal:WithinOne",
            "kl-divergence": "mtlcli.metrics.distribution:KLDivergence",
            "total-variation": "mtlcli.metrics.distribution:TotalVariation",
            "relation-f1": "mtlcli.metrics.relation_f1:RelationF1",
            "answer-f1": "mtlcli.metrics.answers:AnswerF1",
            "answer-exact-match": "mtlcli.metrics.answers:AnswerExactMatch",
            "micro-f1": "mtlcli.metrics.label_sets:MicroF1",
            "micro-f1-at-half": "mtlcli.metrics.label_sets:MicroF1AtHalf",
            "subset-accuracy": "mtlcli.metrics.label_sets:SubsetAccuracy",
            "mean-average-precision": "mtlcli.metrics.mean_average_precision:MeanAveragePrecision",
        },
    ),
    Family(
        name="trackers",
        base="mtlcli.trackers.base:Tracker",
        key="trackers",
        many=True,
        example="mtl train --task sst --sample --tracker {name} --output runs/{name}",
        built_in={
            "tensorboard": "mtlcli.trackers.tensorboard:TensorBoard",
        },
    ),
)

FAMILIES: dict[str, Family] = {family.name: family for family in _ROWS}
METHODS: tuple[str, ...] = tuple(family.name for family in _ROWS if family.is_method)
"""The families whose plugins a study compares, in the order in which `mtl plugins combinations` shows them."""


def families_of_flag(flag: str) -> tuple[Family, ...]:
    """Return the families whose plugins one flag names."""
    return tuple(family for family in FAMILIES.values() if family.flag == flag)
