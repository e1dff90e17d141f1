"""The section `training`: how long, how large, how fast, and what may go wrong meanwhile."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mlvlab_jax.config.fields import OPERATIONAL, check_pattern, configclass

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
Remat = Literal["none", "dots", "dots_without_batch", "full"]


@configclass
class EarlyStoppingConfig:
    """Stop when the monitored metric no longer improves; also what 'best' checkpoint means."""

    patience: Positive | None = None
    """Evaluations without improvement before stopping; null never stops early."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """Smallest change of the metric that counts as an improvement."""
    monitor: str = "loss"
    """Name of the watched validation metric."""
    mode: Literal["min", "max"] = "min"
    """Whether lower or higher is better."""


@configclass
class NonFiniteConfig:
    """What happens where a loss, a gradient or an update is not a finite number. Nothing of the kind is ever saved."""

    policy: Literal["abort", "skip", "rollback"] = Field(default="abort", json_schema_extra=OPERATIONAL)
    """abort: the run ends with exit code 77. skip: the update is left out, as if its batch had not been there, decided
    on the device at no cost. rollback: back to the last checkpoint, leaving out the batches between it and there."""
    max_in_a_row: Positive = Field(default=5, json_schema_extra=OPERATIONAL)
    """Updates skipped one after the other, or returns to one checkpoint, after which the run ends after all."""


@configclass
class LossSpikeConfig:
    """Updates are left out whose loss stands far above those before it."""

    sigmas: Annotated[float, Field(gt=0)] = 6.0
    """Standard deviations above the mean of the window from which on a loss is a spike."""
    window: Annotated[int, Field(ge=4)] = 128
    """Steps that mean and deviation are of; judged once half of them are there."""


@configclass
class IntegrityConfig:
    """Checks for silent corruption: a device that computes or keeps wrong bits without saying so."""

    replay_every_steps: Positive | None = Field(default=None, json_schema_extra=OPERATIONAL)
    """Steps between those computed twice from the same state and batch, the bits compared before the result is kept;
    costs one more step in so many, and memory for a second state; 100 costs about 1 %. Finds what does not go wrong
    the same way twice. On GPUs needs XLA_FLAGS=--xla_gpu_deterministic_ops=true. null: none."""
    compare_replicas_every_steps: Positive | None = Field(default=None, json_schema_extra=OPERATIONAL)
    """Steps between comparisons of the bits of all that several devices hold copies of, which also come before every
    save; each reads the state once. One device, or a state spread over all, has nothing to compare. null: none."""


@configclass
class FreezeConfig:
    """Parameters that stay as they are. Batch statistics, which are no parameters, follow the data all the same."""

    params: Annotated[str, AfterValidator(check_pattern)] = ".*"
    """Regular expression found in their names, such as ^(?!head) for all but the head."""
    until_epoch: Annotated[float, Field(gt=0)] | None = None
    """Epoch from which they are trained like the others; null: they never are, and cost neither time nor memory."""


@configclass
class LoraConfig:
    """Low-rank adaptation: of some kernels a product of two thin matrices is trained, and nothing else but the head."""

    rank: Positive = 8
    """Inner width of the product; 4 to 16 are usual."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """The product counts alpha / rank times, so that the learning rate may stay where the rank changes."""
    kernels: Annotated[str, AfterValidator(check_pattern)] = r"(^|/)(qkv|out|mlp_in|mlp_out)/kernel$"
    """Regular expression found in the names of the kernels that get one."""
    trained: Annotated[str, AfterValidator(check_pattern)] = r"^head/"
    """Regular expression found in the names of the other parameters that are trained."""


@configclass
class DistillationConfig:
    """A student that learns what another network says of the same images, beside the labels."""

    package: Annotated[str, Field(min_length=1)]
    """Folder of the teacher's package; of the same classes and sizes of images."""
    weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the loss that is the teacher's; the labels have the rest."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """Divides the logits of both before they are compared: the higher, the more the unlikely classes count."""


@configclass
class ProgressiveStageConfig:
    """Smaller images for the first epochs, which take less time."""

    until_epoch: Annotated[float, Field(gt=0)]
    """Epoch at whose end the next stage begins, the last with whole images."""
    size: tuple[Positive, Positive]
    """Height and width in pixels."""


@configclass
class TrainingConfig:
    """How long, how large and how fast."""

    batch_size: Positive = 128
    """Examples in one update, over all devices."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate; the schedule multiplies it by a factor in [0, 1]."""
    num_epochs: Annotated[float, Field(gt=0)] = 10.0
    """Passes over the training split; a fraction is allowed."""
    early_stopping: EarlyStoppingConfig = Field(default_factory=EarlyStoppingConfig)
    """When to stop before the last epoch."""
    accumulation_steps: Positive = 1
    """Pieces one batch is computed in, one after the other, to save memory; the result is that of the whole batch."""
    gradient_clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest global L2 norm of the gradient; null leaves it alone. 1.0 is usual for transformers."""
    non_finite: NonFiniteConfig = Field(default_factory=NonFiniteConfig)
    """What happens where numbers stop being numbers."""
    loss_spikes: LossSpikeConfig | None = None
    """Leave out updates of sudden losses; null applies all."""
    freeze: tuple[FreezeConfig, ...] = ()
    """Parameters that are not trained, or later than the others; for a network that has been trained before."""
    lora: LoraConfig | None = None
    """Train thin matrices beside the kernels in place of these; a package has their sum. null: train the kernels."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Learning rate of a block over that of the block after it; the head has all of it. 0.75 is usual where a vision
    transformer is trained on; null: all layers alike."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the moving average of weights that is evaluated instead of the last weights; null is off."""
    loss: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy"
    """What is trained on. cross_entropy: classes exclude each other, by softmax; of data with several labels an image a
    sigmoid for each class in any case. binary_cross_entropy: a sigmoid for each class of all data, the mean over the
    classes, as recipes with mixed images have it."""
    focal_gamma: Annotated[float, Field(gt=0)] | None = None
    """Exponent of the focal loss, which counts examples less the surer the network is of them; 2 is usual. null: all
    count alike."""
    label_smoothing: Fraction = 0.0
    """Share of the target spread evenly over all classes."""
    distillation: DistillationConfig | None = None
    """Learn from a package that was trained before; null: from the labels alone."""
    progressive: tuple[ProgressiveStageConfig, ...] = ()
    """Stages of smaller images, each with a program of its own; evaluation always has whole ones."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the network's arithmetic; weights, softmax and loss stay float32."""
    remat: Remat = "none"
    """What of a block is kept for the gradient; the rest is computed again, which saves memory and costs time. none:
    all is kept. dots: the results of matrix products and convolutions. dots_without_batch: of products with weights,
    not those inside attention; for convolutions the same as full. full: nothing but the block's input."""
    steps_per_dispatch: Positive = 1
    """Updates the device makes for each call from the host, its examples held on the device; worth it where an update
    takes less than about 5 ms. Bit for bit the same as 1 on CPU; accelerators may round differently. Needs a training
    split that fits into `pipeline.max_memory_mib` on each device. On CPU compiling takes as many times longer."""
    hang_timeout_s: Annotated[float, Field(gt=0)] | None = Field(default=600.0, json_schema_extra=OPERATIONAL)
    """Seconds without progress in a training step after which the process ends with exit code 76 and the traces of all
    threads; ten times as long while it compiles, evaluates or saves; null waits for ever."""
    integrity: IntegrityConfig = Field(default_factory=IntegrityConfig)
    """Checks for silent corruption."""
