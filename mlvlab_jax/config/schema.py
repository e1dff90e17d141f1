"""The sections of a configuration: every field typed, ranged and documented."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mlvlab_jax.config.augment import AugmentConfig
from mlvlab_jax.config.fields import OPERATIONAL, PluginField, check_pattern, configclass, default_spec
from mlvlab_jax.config.training import Fraction, Positive, TrainingConfig
from mlvlab_jax.config.weights import WeightsConfig
from mlvlab_jax.plugins import METRICS, MODELS, OPTIMIZERS, SCHEDULES, SOURCES, TRACKERS, Spec

Tactic = Literal["column", "row", "fsdp", "whole"]


@configclass
class PreprocessSpec:
    """How the bytes of an image file become pixels: the same in training, evaluation and serving."""

    size: tuple[Positive, Positive] | None = None
    """Height and width in pixels of every image; null takes those of the source, where its images have one size."""
    channels: Literal[1, 3] | None = None
    """3 for RGB, 1 for grey (ITU-R 601 luma); null takes the source's own, and RGB for image files."""
    resize: Literal["crop", "pad", "stretch"] = "crop"
    """crop: fill the size, cut what hangs over, centred. pad: fit inside, zeros around. stretch: change the aspect."""
    filter: Literal["box", "bilinear", "bicubic", "lanczos", "opencv_linear"] = "bilinear"
    """Resampling filter. The first four are Pillow's, as wide as the reduction demands (antialiased). opencv_linear
    (extra `opencv`) is the fast one, coarser between full and half size: OpenCV's INTER_LINEAR, or its INTER_AREA where
    an image is twice the size or more."""
    max_jpeg_enlargement: Annotated[float, Field(ge=1, le=2)] = 1.0
    """How much a JPEG may be enlarged that was decoded at a reduced scale, which is faster and less sharp; at 1 none is
    decoded below the size. 1.25 lets 500 x 375 be decoded at half its size for 224 x 224."""
    max_pixels: Positive = 64_000_000
    """Width x height above which a file is refused from its header, before any pixel is decoded."""


@configclass
class PipelineConfig:
    """From the source to the network's input."""

    preprocess: PreprocessSpec = Field(default_factory=PreprocessSpec)
    """From the bytes of a file to pixels of one size."""
    max_memory_mib: int = Field(default=1024, ge=0, json_schema_extra=OPERATIONAL)
    """MiB of decoded images a split may take to be decoded once and held in memory; a larger one is read as needed."""
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of a split's examples that may turn out unreadable before the run stops."""
    quarantine: str | None = None
    """A quarantine.jsonl as `mlvlab validate` and training write it: what it lists is left out; null: nothing."""
    validation_fraction: Fraction = 0.1
    """Share of the training split held out where the source has no validation split of its own; 0 for none."""
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0)]] | None = None
    """How much an example of each class counts in the training loss: by class name, 1 where not named. balanced: all
    classes alike, whatever their size. null: all examples alike."""
    class_sampling: Literal["natural", "balanced"] = "natural"
    """Which training examples make an epoch. natural: each once. balanced: as many of every class, those of small
    classes repeatedly, of large ones a part that changes with the epoch."""
    repeats: Positive = 1
    """How often in a row a training example comes, each time augmented anew; an epoch, as long as ever, has so many
    times fewer examples. 3 is usual in recipes of some hundred epochs."""
    mean: tuple[float, ...] = (0.5,)
    """Subtracted after scaling pixels to [0, 1]: one value, or one a channel."""
    std: tuple[Annotated[float, Field(gt=0)], ...] = (0.5,)
    """Divided by after the mean: one value, or one a channel."""
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    """Random changes of training images."""
    num_threads: Positive = Field(default=2, json_schema_extra=OPERATIONAL)
    """Threads that read and decode batches ahead; the decoders run outside Python's lock."""
    num_processes: int = Field(default=0, ge=0, json_schema_extra=OPERATIONAL)
    """Processes that read ahead in place of threads, for sources in pure Python; they never see the accelerator."""
    prefetch_batches: Positive = Field(default=4, json_schema_extra=OPERATIONAL)
    """Batches kept ready; more hides slower storage and takes more memory."""


@configclass
class ValidationConfig:
    """Checks of the data: a few before training, all of them by `mlvlab validate`."""

    mode: Literal["strict", "warn", "off"] = Field(default="warn", json_schema_extra=OPERATIONAL)
    """strict: an error stops training, and `mlvlab validate` ends with 65. warn: it is named. off: not in training."""
    validator: str | None = Field(default=None, json_schema_extra=OPERATIONAL)
    """Dotted name of a DataValidator of your own that `mlvlab validate` also asks, made with valid_labels and shape."""
    min_side: Positive = Field(default=8, json_schema_extra=OPERATIONAL)
    """Pixels; an image with a shorter side is tiny."""
    max_aspect: Annotated[float, Field(ge=1)] = Field(default=4.0, json_schema_extra=OPERATIONAL)
    """Longer by shorter side beyond which an image is oddly shaped; cropping loses most of it."""
    max_imbalance: Annotated[float, Field(ge=1)] = Field(default=10.0, json_schema_extra=OPERATIONAL)
    """Largest by smallest class beyond which a split is called imbalanced."""
    reference: str | None = Field(default=None, json_schema_extra=OPERATIONAL)
    """A profile.json, such as the one in a model package, that each split's pixel statistics are compared with; null:
    with those of the training split alone."""
    near_duplicate_distance: Annotated[int, Field(ge=0, le=8)] = Field(default=4, json_schema_extra=OPERATIONAL)
    """Bits of 64 in which the perceptual hashes of two images may differ that look the same."""


@configclass
class DataVersionConfig:
    """What DVC recorded of the data, where it tracks them."""

    verify: Literal["off", "warn", "strict"] = Field(default="warn", json_schema_extra=OPERATIONAL)
    """Whether tracked files are read and compared with their recorded MD5 at the start, about a second for 0.6 GB
    and core. warn: note what differs and go on. strict: refuse it. off: record the version unseen."""


@configclass
class EvaluationConfig:
    """Measuring on validation and test data: every example exactly once."""

    every_epochs: Annotated[float, Field(gt=0)] = 1.0
    """Epochs between evaluations on the validation split."""
    batch_size: Positive = Field(default=512, json_schema_extra=OPERATIONAL)
    """Examples in one evaluation batch, over all devices."""
    metrics: tuple[Annotated[Spec, PluginField(METRICS)], ...] = Field(
        default_factory=lambda: (default_spec(METRICS, "loss")(), default_spec(METRICS, "accuracy")())
    )
    """What is measured."""


@configclass
class CheckpointConfig:
    """What is kept on disk."""

    every_steps: Positive | None = Field(default=None, json_schema_extra=OPERATIONAL)
    """Steps between saves, beside those after an improvement and at the end; null saves at each evaluation."""
    keep_last: Annotated[int, Field(ge=2)] = Field(default=2, json_schema_extra=OPERATIONAL)
    """Newest checkpoints kept; two at least, so that a damaged one leaves another to go on from."""
    keep_best: Positive = Field(default=1, json_schema_extra=OPERATIONAL)
    """Best checkpoints kept, by the early-stopping metric."""
    keep_every_steps: Positive | None = Field(default=None, json_schema_extra=OPERATIONAL)
    """Checkpoints of every so many steps are kept for good, where one was saved at that step; null keeps none so."""


@configclass
class MeshConfig:
    """How devices are laid out; the product must be the number of devices."""

    data: Annotated[int, Field(ge=-1)] = -1
    """Copies of the model that each take a part of the batch; -1 takes all devices the others leave."""
    fsdp: Positive = 1
    """Devices that share a copy's weights and optimiser state, and the batch."""
    tensor: Positive = 1
    """Devices that share each layer's arithmetic; must divide the attention heads."""
    rules: tuple[tuple[Annotated[str, AfterValidator(check_pattern)], Tactic], ...] = ()
    """[regular expression on the parameter's name, tactic], before the built-in rules; first match wins. column:
    outputs over tensor, inputs over fsdp. row: the other way round. fsdp: the largest dim over fsdp. whole: no part."""


@configclass
class ProfileConfig:
    """A trace of some steps, for TensorBoard and XProf."""

    first_step: Positive = Field(default=10, json_schema_extra=OPERATIONAL)
    """First step traced; the very first ones are not like the others, as they compile and fill buffers."""
    num_steps: Positive = Field(default=10, json_schema_extra=OPERATIONAL)
    """Steps traced; a few are enough, and a trace of many is too large to look at."""


@configclass
class TrackingConfig:
    """Where the numbers go."""

    log_every_steps: Positive = Field(default=50, json_schema_extra=OPERATIONAL)
    """Steps averaged into one record of training metrics."""
    param_histograms: bool = Field(default=False, json_schema_extra=OPERATIONAL)
    """Write the distribution of every parameter at each evaluation."""
    profile: ProfileConfig | None = Field(default=None, json_schema_extra=OPERATIONAL)
    """Steps to trace; null: none. In any case the file `profile` in the run folder asks for the next ones."""
    trackers: tuple[Annotated[Spec, PluginField(TRACKERS)], ...] = Field(
        default_factory=lambda: tuple(default_spec(TRACKERS, n)() for n in ("console", "jsonl", "tensorboard")),
        json_schema_extra=OPERATIONAL,
    )
    """Writers of metrics."""


@configclass
class Config:
    """One experiment."""

    plugins: tuple[str, ...] = ()
    """Modules to import first; they register models, sources, ... of your own."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Everything random is a function of this number."""
    model: Annotated[Spec, PluginField(MODELS)]
    """The network."""
    weights: WeightsConfig | None = None
    """What training starts from; null: from chance."""
    data: Annotated[Spec, PluginField(SOURCES)] = Field(default_factory=default_spec(SOURCES, "digits"))
    """The images."""
    data_version: DataVersionConfig = Field(default_factory=DataVersionConfig)
    """What DVC recorded of the images."""
    pipeline: PipelineConfig = Field(default_factory=PipelineConfig)
    """From the source to the network's input."""
    validation: ValidationConfig = Field(default_factory=ValidationConfig)
    """Checks of the data."""
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    """How long, how large and how fast."""
    optimizer: Annotated[Spec, PluginField(OPTIMIZERS)] = Field(default_factory=default_spec(OPTIMIZERS, "adamw"))
    """The update rule."""
    schedule: Annotated[Spec, PluginField(SCHEDULES)] = Field(default_factory=default_spec(SCHEDULES, "cosine"))
    """The learning rate over time."""
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    """Measuring on validation and test data."""
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    """What is kept on disk."""
    mesh: MeshConfig = Field(default_factory=MeshConfig)
    """How devices are laid out."""
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    """Where the numbers go."""
    compile_cache: bool = Field(default=True, json_schema_extra=OPERATIONAL)
    """Keep compiled programs in a private folder, so that the next start is fast."""
    compile_options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Options of XLA's compiler for the training step alone, such as xla_gpu_enable_latency_hiding_scheduler: true."""
