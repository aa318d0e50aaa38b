"""The plugin families and the plugins that come with mtlcli."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One kind of plugin: the base class its members derive from, and the members that come with mtlcli."""

    base: str
    built_in: dict[str, str]


FAMILIES: dict[str, Family] = {
    "tasks": Family(
        "mtlcli.tasks.base:Task",
        {
            "sst": "mtlcli.tasks.sst:SST",
            "cfimdb": "mtlcli.tasks.cfimdb:CFIMDB",
            "quora": "mtlcli.tasks.quora:Quora",
            "sts": "mtlcli.tasks.sts:STS",
            "classification": "mtlcli.tasks.kinds:Classification",
            "regression": "mtlcli.tasks.kinds:Regression",
            "pair-classification": "mtlcli.tasks.kinds:PairClassification",
            "pair-regression": "mtlcli.tasks.kinds:PairRegression",
        },
    ),
    "heads": Family(
        "mtlcli.heads.base:Head",
        {
            "linear": "mtlcli.heads.linear:Linear",
            "pair-concat": "mtlcli.heads.pair_concat:PairConcat",
            "cosine": "mtlcli.heads.cosine:Cosine",
            "mlp": "mtlcli.heads.mlp:MLP",
            "pair-compare": "mtlcli.heads.pair_compare:PairCompare",
            "pair-mix": "mtlcli.heads.pair_mix:PairMix",
            "class-contrastive": "mtlcli.heads.class_contrastive:ClassContrastive",
        },
    ),
    "schedulers": Family(
        "mtlcli.schedulers.base:Scheduler",
        {
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
    "balancers": Family(
        "mtlcli.balancers.base:Balancer",
        {
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
    "gradient_regularizers": Family(
        "mtlcli.gradient_regularizers.base:GradientRegularizer",
        {
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
    "regularizers": Family(
        "mtlcli.regularizers.base:Regularizer",
        {
            "smart": "mtlcli.regularizers.smart:SMART",
            "bppo": "mtlcli.regularizers.bppo:BPPO",
            "successive": "mtlcli.regularizers.successive:Successive",
            "soft-sharing": "mtlcli.regularizers.soft_sharing:SoftSharingDistance",
            "representation-alignment": "mtlcli.regularizers.representation_alignment:RepresentationAlignment",
            "l2-sp": "mtlcli.regularizers.l2_sp:L2SP",
        },
    ),
    "encoders": Family("mtlcli.encoders.base:EncoderSource", {"tiny": "mtlcli.encoders.tiny:Tiny"}),
    "architectures": Family(
        "mtlcli.architectures.base:Architecture",
        {
            "hard-sharing": "mtlcli.architectures.hard_sharing:HardSharing",
            "convolution": "mtlcli.architectures.convolution:Convolution",
            "soft-sharing": "mtlcli.architectures.soft_sharing:SoftSharing",
        },
    ),
    "metrics": Family(
        "mtlcli.metrics.base:Metric",
        {
            "accuracy": "mtlcli.metrics.accuracy:Accuracy",
            "macro-f1": "mtlcli.metrics.macro_f1:MacroF1",
            "pearson": "mtlcli.metrics.pearson:Pearson",
            "spearman": "mtlcli.metrics.spearman:Spearman",
            "exact-match": "mtlcli.metrics.exact_match:ExactMatch",
            "mean-squared-error": "mtlcli.metrics.mean_squared_error:MeanSquaredError",
        },
    ),
}
