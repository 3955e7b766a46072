"""The Experiment: everything a run depends on, made of the library's own options."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from agejax.models.vgg import VGG
from agejax.training.cluster import Cluster
from agejax.training.stages import Stage
from data_pipelines.align import Alignment
from data_pipelines.errors import UserError
from data_pipelines.loaders import Loader
from data_pipelines.plans import DEX, Augmentation


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A run. Fields below `stages` have defaults that fit every config."""

    name: str
    stages: tuple[Stage, ...]
    data: str = "synthetic"
    """Prepared data set, as `synthetic`, `synthetic/mugshot`, `aaf`, `manifest`."""
    recipe: Literal["paper", "official"] = "paper"
    """paper: formulas as printed; official: as the authors' code has them. It has shaped the stages above."""
    model: Any = VGG()
    """Options of a family of agejax.models.network.FAMILIES. Without `inputs` it is fed as the weights of --init were,
    or as its family usually is."""
    image_size: int = 224
    """Pixels."""
    alignment: Alignment = Alignment()
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the convolutions; parameters, statistics and losses are float32 always."""
    seed: int = 0
    select: Literal["last", "best"] = "last"
    """The weights that a finished stage hands on: the last ones, or the best by validation."""
    test_split: str = "test"
    test_versions: int = 1
    """How many augmented versions of each test image the answer is the mean of; 1: the image and its mirror image."""
    test_augmentation: Augmentation = DEX
    """Of these versions."""
    eval_batch_size: int = 256
    checkpoint_epochs: float = 1.0
    validate_epochs: float = 1.0
    only: tuple[str, ...] = ()
    """Names of the stages to run; empty: all. Others hand their weights on where they were finished before."""
    init: Path | None = None
    """Finished run or stage whose weights the first stage starts from."""
    data_dir: Path = Path("data")
    """Folder of prepared data sets."""
    workdir: Path | None = None
    """Folder of this run, or gs://BUCKET/…; runs/<name> if left out."""
    loader: Loader = Loader(workers=-1)
    cluster: Cluster = Cluster()
    feed: Literal["auto", "host", "device", "resident"] = "auto"
    """Where training images are augmented and kept: by the loader; on the device, streamed; on the device, all of them
    in its memory. auto: host on a CPU, resident elsewhere."""
    compile_cache: Path | None = None
    """Folder where compiled programs are kept; left out: `compiled` in the workdir, and none on a CPU."""
    sweep: tuple[tuple[str, tuple], ...] = ()
    """(option of the last stage or seed, its values): all combinations are trained, those of one shape as one."""
    sweep_way: Literal["auto", "vmap", "map", "loop"] = "auto"
    """How trials of one shape are trained: side by side, in turn in one program, or one program for each step of each.
    auto: vmap, and loop on a CPU."""

    def __post_init__(self):
        if self.image_size < self.model.min_image_size:
            raise UserError(
                f"image_size {self.image_size} is too small for the network: give {self.model.min_image_size} or more"
            )
        for name in ("test_versions", "eval_batch_size", "checkpoint_epochs", "validate_epochs"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}")

    @property
    def folder(self) -> Path:
        return self.workdir or Path("runs") / self.name


# A run may be continued with other values of these: they do not change what is computed.
FREE_TO_CHANGE = ("workdir", "data_dir", "loader", "cluster", "checkpoint_epochs", "only", "sweep_way", "compile_cache")
# What decides nothing before the last stage; of the data, a stage that has none of its own is trained on the run's.
NOT_YET = (
    "name", "data", "stages", "sweep", "validate_epochs", "eval_batch_size",
    "test_split", "test_versions", "test_augmentation",
)  # fmt: skip
