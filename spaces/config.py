"""The settings of one search (`SearchConfig`) and of one trial (`TrialConfig`).

A search's YAML file is a `SearchConfig`; a trial's configuration is what the space's point and the search's fixed
settings make together, and is all that the fine-tuning loop is told besides the data.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from spaces.feature import parse_feature
from spaces.strict import Strict

LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_./-]{0,251}[A-Za-z0-9])?")
SELECTOR = re.compile(r"!?[\w.-]+|!?in\([\w.-]+(, ?[\w.-]+)*\)")
OWN_FILES = re.compile(
    r"cache|mlartifacts|mlflow\.db.*|test-openings\.jsonl.*|check-.*\.txt|medtune\.local\.yaml", re.IGNORECASE
)
"""Names of what else lies beside the searches of a storage."""
FORMAT = 1  # of the record, checkpoints and exports; raised when an older reader would misread them

METRICS = {
    "accuracy": "maximize",
    "balanced_accuracy": "maximize",
    "macro_auroc": "maximize",
    "macro_average_precision": "maximize",
    "quadratic_weighted_kappa": "maximize",
    "macro_f1": "maximize",
}
Metric = Literal[
    "accuracy", "balanced_accuracy", "macro_auroc", "macro_average_precision", "quadratic_weighted_kappa", "macro_f1"
]
Direction = Literal["maximize", "minimize"]
Head = Literal["linear", "bn_linear", "attentive", "deit"]
Adapter = Literal["none", "lora", "dora"]
AdapterTargets = Literal["all", "attention"]
Loss = Literal["cross_entropy", "ordinal", "regression"]
ClassWeights = Literal["none", "effective", "inverse"]
Sampling = Literal["natural", "balanced"]
Uncertain = Literal["ignore", "zeros", "ones", "mixed", "smooth"]
Blank = Literal["zeros", "ignore"]
Strategy = Literal["free", "compare"]
Crop = Literal["none", "breast", "disc"]
Side = Literal["keep", "left"]
Protocol = Literal["own", "paper"]
Value = Literal["last", "best"]
Schedule = Literal["cosine", "constant"]
Target = Literal["specificity", "sensitivity"]


class SplitConfig(Strict):
    """How images become training, validation and test: by group, stratified by label, from a seed."""

    validation: float = Field(default=0.2, gt=0, le=0.5)
    """Share of the groups that aren't in the test set; the nearest 1/k is taken."""
    test: float = Field(default=0.2, gt=0, le=0.5)
    """Share of all groups; the nearest 1/k is taken. Ignored where the dataset's own test set is used."""
    seed: int = Field(default=0, ge=0)
    official: bool = True
    """Use the dataset's own split where it has one."""
    folds: int = Field(default=1, ge=1, le=10)
    """Above 1: training and validation rows are divided into that many folds, and a trial's value is the mean over
    them."""
    by: Literal["group", "image", "order"] = "group"
    """What stays together. `image`: nothing does, so that images of one patient or lesion stand in several parts;
    `order`: the first rows in the order of their paths are validation, the next ones test. Both aren't stratified, take
    `validation` and `test` as shares of all images, and are for `protocol: paper` alone."""
    rows: Literal["all", "train"] = "all"
    """`train`: only the training rows of the dataset's own split are divided, the others are in no part."""


class DatasetConfig(Strict):
    """Where images and labels lie, and how an image becomes the network's input."""

    reader: str
    """Name of a reader: folder, csv, aptos2019, ...; or `package.module:name` of a person's own."""
    root: str
    """Folder of the dataset, relative to the settings file or absolute."""
    options: dict[str, Any] = {}
    """The reader's own options."""
    policy: str | None = None
    """Augmentation policy (spaces/policies.yaml); the reader's own by default."""
    augmentation: dict[str, Any] = {}
    """Ranges of a policy (fields of spaces.policy.Policy) that differ in this search; what passes the modality's limits
    is refused unless it is named under `force`."""
    fit: Literal["stretch", "pad", "crop"] = "stretch"
    """How an image takes the input's shape: stretched to it, padded with black around it, or its centre cropped."""
    centre: float = Field(default=1, gt=0, le=1)
    """Share of each side that is kept of what `fit` gives: with 0.875, an image is fitted to 256 pixels for an input of
    224, and the middle is cut out."""
    crop: Crop | None = None
    """What is cut out before: the breast of a mammogram, the disc of a fundus photograph; the reader's own by
    default."""
    side: Side = "keep"
    """`left`: a breast at the right edge is mirrored, so that all look alike. Only with `crop: breast`."""
    split: SplitConfig = SplitConfig()


class BudgetConfig(Strict):
    """What a search may cost."""

    trials: int = Field(default=50, ge=1, le=100_000)
    epochs: int = Field(default=30, ge=1, le=10_000)
    """Epochs of a trial that isn't stopped early."""
    hours: float | None = Field(default=None, gt=0)
    """Wall time of one launch; running trials are then left resumable."""
    device_hours: float | None = Field(default=None, gt=0)
    """Hours that all trials together may spend in epochs, times the accelerators of a trial (CPUs where it has none),
    over all launches; running trials are then left resumable."""
    plateau: int | None = Field(default=None, ge=1)
    """No more trials are started once this many have ended in a row of which none was better than all before them, by
    more than `comparison.margin` where that is set. Running ones go on."""


class StoppingConfig(Strict):
    """Who is stopped early: asynchronous successive halving within trials of the same key (see search/rungs.py)."""

    rule: Literal["halving", "off"] = "halving"
    grace: float = Field(default=0.25, gt=0, le=1)
    """Share of the epochs that every trial gets."""
    eta: int = Field(default=2, ge=2, le=8)
    """At a rung, about one of `eta` trials goes on."""


class ComparisonConfig(Strict):
    """What is settled about comparing configurations before anything is compared."""

    margin: float | None = Field(default=None, gt=0, lt=1)
    """Largest difference of the metric that wouldn't matter; a final says who is within it of the best."""


class OperatingPointConfig(Strict):
    """Where on the ROC curve a final tells of each class what it comes to. The threshold that reaches it is fixed on
    validation."""

    target: Target = "specificity"
    at: float = Field(default=0.9, gt=0, lt=1)
    """What is to be reached; the other one is then as good as it can be."""


class ResourcesConfig(Strict):
    """What one trial occupies, and how many run at once."""

    workers: int = Field(default=1, ge=1)
    """Processes that train one trial together, each with its share of every batch (Ray Train, DDP). More than one only
    where a trial would take too long otherwise: starting them takes half a minute."""
    cpus: int = Field(default=1, ge=1)
    """CPUs a worker."""
    accelerators: float = Field(default=0, ge=0, le=1)
    """Accelerators a worker, at most one; a fraction shares it."""
    labels: dict[str, str] = {}
    """Of the nodes that trials may run on, where a cluster is a mixed one: as nodes were started with (`ray start
    --labels`) or as Ray gives them (ray.io/accelerator-type). A value may be `a`, `!a`, `in(a,b)` or `!in(a,b)`."""
    shard: bool = False
    """Whether the workers of a trial share out the blocks' weights, gradients and moments (FSDP2) instead of each
    holding all: slower, for models that don't fit one accelerator. Nothing is kept of what frozen blocks compute."""
    concurrent: int | Literal["auto"] = "auto"
    """Trials at once; `auto`: as many as fit."""
    hang: float = Field(default=30, gt=0)
    """Minutes without a step, an evaluated batch or a decoded image after which a trial's process counts as hanging:
    it is ended, with the stacks of its threads in the trial's folder, and tried again once."""

    @field_validator("labels")
    @classmethod
    def _selectors(cls, value: dict[str, str]) -> dict[str, str]:
        for label, selector in value.items():
            if not LABEL.fullmatch(label) or not SELECTOR.fullmatch(selector):
                raise ValueError(f'should be labels like kind: a, !a, in(a,b) or !in(a,b), found "{label}: {selector}"')
        return value

    @model_validator(mode="after")
    def _shared_out_among_several(self) -> ResourcesConfig:
        if self.shard and self.workers == 1:
            raise ValueError("shard: true shares a trial out among its workers, but workers is 1; ask for more of them")
        return self

    @model_validator(mode="after")
    def _whole_accelerators_for_several(self) -> ResourcesConfig:
        if self.workers > 1 and 0 < self.accelerators < 1:
            raise ValueError(
                f"the {self.workers} workers of a trial need an accelerator each, but accelerators is "
                f"{self.accelerators:g}: two of them on one can't exchange gradients; write accelerators: 1"
            )
        return self

    @field_validator("concurrent")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("should be at least 1, or auto")
        return value


class SearchConfig(Strict):
    """One search, as its YAML file says it."""

    name: str
    dataset: DatasetConfig
    backbones: tuple[str, ...] = Field(min_length=1)
    weights: dict[str, str] | str = "pretrained"
    """`pretrained`, `random`, or for each backbone one of these or the path of an official file."""
    space: dict[str, Any] = {}
    """Changes to the shipped space: a value fixes a dimension, null leaves it out, a mapping redefines it."""
    first: tuple[dict[str, Any], ...] = Field(default=(), alias="try")
    """Own configurations, tried before anything else; what one leaves out takes the space's default."""
    expert_first: bool = True
    """Then try the shipped first configurations that lie in this space."""
    budget: BudgetConfig = BudgetConfig()
    metric: Metric | None = None
    """What a trial's value is, on the validation set; the reader's own by default."""
    classes_averaged: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Classes or findings that a macro metric is averaged over: all by default. A choice made before the search, where
    some can't be estimated on validation or test, and told with every result."""
    comparison: ComparisonConfig = ComparisonConfig()
    operating_point: OperatingPointConfig = OperatingPointConfig()
    direction: Direction | None = None
    """Follows from the metric; may be said, and must then agree."""
    stopping: StoppingConfig = StoppingConfig()
    resources: ResourcesConfig = ResourcesConfig()
    sampler: Literal["tpe", "random"] = "tpe"
    storage: str = "runs"
    """Folder that the search's own folder is made in, relative to the working folder or absolute."""
    study: str | None = None
    """Optuna storage URL of the record; a journal file in the search's folder by default."""
    checkpoints: str | None = None
    """Address in an object store (`s3://bucket/folder`, `gs://...`; pyarrow's) for the checkpoints of trials, where the
    storage would be too small or too slow; in the search's folder by default. Credentials are the machine's own."""
    cache: str | None = None
    """Folder of decoded pixels; `<storage>/cache` by default."""
    activations: float | Literal["auto"] = Field(default="auto")
    """GiB that activations of frozen blocks may take in the cache of a machine, 0 for none; `auto`: 40% of what is free
    there."""
    mlflow: str = "local"
    """`local` (SQLite beside the searches), `off`, or the address of a server."""
    tags: tuple[str, ...] = ()
    """Words that `medtune ls` shows with the search."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    strategy: Strategy = "free"
    """`compare`: every backbone gets as many trials, with a sampler of its own, so that they can be compared."""
    protocol: Protocol = "own"
    """`paper`: splits, labels, learning rate, augmentation and choice of epoch as in a paper (spaces/protocols), for
    comparison with its figures."""

    @field_validator("activations")
    @classmethod
    def _not_negative(cls, value: float | str) -> float | str:
        if isinstance(value, float) and value < 0:
            raise ValueError("should be 0 or more, or auto")
        return value

    @field_validator("storage")
    @classmethod
    def _a_folder(cls, value: str) -> str:
        if "://" in value:
            raise ValueError(
                "should be a folder that driver and workers see; what is large can lie in an object store: "
                "checkpoints: s3://bucket/folder"
            )
        return value

    @field_validator("checkpoints")
    @classmethod
    def _address_without_credentials(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^@\s]+", value):
            raise ValueError("should be an address like s3://bucket/folder, without credentials")
        return value

    @field_validator("name")
    @classmethod
    def _usable_as_folder(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
            raise ValueError(
                "should be a folder's name: letters, digits, '.', '_', '-', at most 64, not starting with a sign"
            )
        if OWN_FILES.fullmatch(value):
            raise ValueError("should be another name, since files of medtune's own beside the searches are called so")
        return value

    @field_validator("backbones")
    @classmethod
    def _no_repeats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("should not name a backbone twice")
        return value

    @field_validator("classes_averaged")
    @classmethod
    def _each_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value and len(set(value)) != len(value):
            raise ValueError("should not name a class twice")
        return value

    @model_validator(mode="after")
    def _direction_agrees(self) -> SearchConfig:
        if self.direction and self.metric and self.direction != METRICS[self.metric]:
            raise ValueError(f"direction should be {METRICS[self.metric]} for {self.metric}")
        return self

    @model_validator(mode="after")
    def _no_leak_unless_asked_for(self) -> SearchConfig:
        if self.dataset.split.by != "group" and self.protocol == "own":
            raise ValueError(
                f"dataset.split.by: {self.dataset.split.by} puts images of one patient or lesion into several parts, "
                "which is for protocol: paper alone; leave it out"
            )
        return self

    @property
    def cache_folder(self) -> Path:
        """Where decoded images and activations lie."""
        return Path(self.cache) if self.cache else Path(self.storage) / "cache"

    def plain(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)


Resolution = tuple[int, int]


class TrialConfig(Strict):
    """One trial, completely. The fields from `resolution` to `ema` are the space's dimensions (spaces/common.yaml)."""

    backbone: str
    weights: str
    """`pretrained`, `random`, or the path of an official file."""
    metric: Metric
    classes_averaged: tuple[str, ...] | None = None
    """Classes that the metric is averaged over; None is all."""
    epochs: int = Field(ge=1)
    seed: int = Field(ge=0)

    resolution: Resolution
    """Height and width of the input in pixels."""
    policy: str
    """Augmentation policy."""
    augmentation: dict[str, Any] = {}
    """The search's own ranges, laid over the policy's."""
    level: int = Field(default=0, ge=0, le=3)
    """Strength of the augmentation; 0 is none."""
    head: Head = "linear"
    feature: str = "pooled"
    """Which of the backbone's features a linear head reads (spaces/feature.py)."""
    trained_blocks: int | Literal["all"] = 0
    """Blocks trained, counted from the output; 0 is the head alone, `all` includes the stem."""
    adapter: Adapter = "none"
    """How trained blocks change: all their weights, or low-rank updates of them alone (trainables/adapters.py)."""
    adapter_rank: int = Field(default=16, ge=1)
    adapter_targets: AdapterTargets = "all"
    """Which linear layers of the trained blocks are adapted."""
    grad_checkpointing: bool = False
    """Computes the activations of trained blocks again in the backward pass: less memory, more time, same results."""
    head_lr: float = Field(gt=0)
    backbone_lr_ratio: float = Field(default=0.01, gt=0)
    """Backbone's learning rate as a share of the head's."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """The learning rate falls by this factor a block towards the stem."""
    weight_decay: float = Field(default=0.05, ge=0)
    head_weight_decay: float = Field(default=0.0, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps over which the learning rate rises linearly."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    batch_size: int = Field(default=64, ge=1)
    mixup: float = Field(default=0.0, ge=0)
    """Alpha of mixup's Beta distribution; 0 is off."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Averaging time of the weights' exponential moving average as a share of all steps; 0 is off."""
    views: int = Field(default=0, ge=0)
    """Augmented views of the training set that epochs take in turn; 0: each epoch has one of its own."""
    view_seed: int | None = Field(default=None, ge=0)
    """Seed of the views: the search's, so that its trials share them; the trial's own by default."""
    loss: Loss = "cross_entropy"
    """Cross-entropy (multilabel: of each finding, where it is known); for grades also `ordinal`, which learns in how
    far each grade is passed (CORN; Shi et al. 2023), and `regression`, whose thresholds are fitted on validation."""
    focal: float = Field(default=0.0, ge=0, le=5)
    """Gamma of the focal loss (Lin et al. 2017); 0 is off."""
    class_weights: ClassWeights = "none"
    """Weights of classes in the loss: by their inverse frequency, or by their effective number (Cui et al. 2019)."""
    logit_adjustment: float = Field(default=0.0, ge=0, le=2)
    """Share of the classes' log frequencies added to the logits in training (Menon et al. 2021); 0 is off."""
    sampling: Sampling = "natural"
    """`balanced`: an epoch draws as many images as there are, each class equally often."""
    uncertain: Uncertain = "mixed"
    """How findings that a report is unsure of are learned: left out, as 0, as 1, as 1 for atelectasis and oedema and 0
    for others, or as a number between .55 and .85 (Pham et al. 2021)."""
    blank: Blank = "zeros"
    """How findings that a report doesn't mention are learned."""
    schedule: Schedule = "cosine"
    """How the learning rate goes on after the warm-up: along half a cosine to 0, or as it is."""
    value: Value = "last"
    """The trial's value and weights: of its last epochs, or of its best epoch on validation, which is a second maximum
    over noise and for `protocol: paper` alone."""

    @field_validator("resolution", mode="before")
    @classmethod
    def _from_space(cls, value: Any) -> Any:
        if isinstance(value, list):
            return tuple(value)
        return parse_resolution(value) if isinstance(value, int | str) else value

    @field_validator("feature")
    @classmethod
    def _known(cls, value: str) -> str:
        parse_feature(value)
        return value

    @field_validator("trained_blocks")
    @classmethod
    def _not_negative(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError("should be 0 or more, or all")
        return value


def parse_resolution(value: int | str) -> Resolution:
    """`224` or `"896x700"` (height x width) as (height, width) in pixels."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    match = re.fullmatch(r"(\d+)x(\d+)", str(value))
    if not match:
        raise ValueError('should be a side in pixels, or "HEIGHTxWIDTH"')
    return (int(match[1]), int(match[2]))
