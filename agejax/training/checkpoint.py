"""Checkpoints of one stage: the latest state with the data position, the best by validation, the finished one's card.

<stage>/checkpoints/latest/<step>/   state (parameters, statistics, moments, step) and progress, in one atomic save
<stage>/checkpoints/best/<step>/     parameters and statistics of the best validation
<stage>/stage.json                   written when the stage is finished: which weights to use and how to feed them
"""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from agejax import specs
from agejax.files import absolute, as_path, modified, write_whole
from agejax.models.network import Network, make_network, variable_shapes
from agejax.parameters import Tree
from agejax.training.sharding import make_mesh, replicated
from agejax.training.state import TrainState
from data_pipelines.align import Alignment
from data_pipelines.errors import UserError

CARD = "stage.json"


@dataclasses.dataclass(frozen=True)
class Description:
    """What must be known to use trained weights."""

    backbone: Any
    """Options of a family of agejax.models.network.FAMILIES."""
    objective: Any
    image_size: int
    """Pixels."""
    dtype: str
    alignment: Alignment
    data: str
    """The data set trained on."""
    median_label: float | None
    """Median of the training labels, in the label's unit: what a blind guess would say. None: labels are identities, or
    were other people's."""
    recipe: dict | None = None
    """How the faces of that data set were found and cropped, from its summary; None: not kept, by an older version."""

    def network(self, trainable: str = "") -> Network:
        return make_network(self.backbone, self.objective.head, self.dtype, trainable)


class Manager(ocp.CheckpointManager):
    """The loop settles when to stop, at one dispatch in all processes: orbax's own question would disturb that."""

    def reached_preemption(self, step: int) -> bool:
        return False


class StageCheckpoints:
    """The two checkpoint folders of a stage; saves run in the background, `close` waits for them.

    Of several processes each calls every method, and all need to see the same folder.
    """

    def __init__(self, stage_dir: Path):
        keep_one = ocp.CheckpointManagerOptions(max_to_keep=1, cleanup_tmp_directories=True)
        folder = absolute(stage_dir) / "checkpoints"
        self.latest = Manager(folder / "latest", options=keep_one)
        self.best = Manager(folder / "best", options=keep_one)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.latest.close()
        self.best.close()

    def restore(self, like: TrainState) -> tuple[TrainState, dict] | None:
        """The newest complete save as (state, progress), placed like `like`; None where there is none."""
        step = self.latest.latest_step()
        if step is None:
            return None
        items = {"state": ocp.args.StandardRestore(_abstract(like)), "progress": ocp.args.JsonRestore()}
        saved = self.latest.restore(step, args=ocp.args.Composite(**items))
        return saved.state, saved.progress

    def save(self, step: int, state: TrainState, progress: dict) -> None:
        """Returns once the state is copied: the caller may donate its own."""
        if step == self.latest.latest_step():
            return
        _finish(self.best)
        # a copy, as the step donates the state's buffers and on CPU the writer would read those very buffers
        items = {"state": ocp.args.StandardSave(_copied(state)), "progress": ocp.args.JsonSave(progress)}
        self.latest.save(step, args=ocp.args.Composite(**items))

    def save_best(self, step: int, variables: dict) -> None:
        if step != self.best.latest_step():  # a rerun after a kill may come by the same step again
            _finish(self.latest)
            self.best.save(step, args=ocp.args.StandardSave(_copied(variables)))


def _finish(other: ocp.CheckpointManager) -> None:
    """Of several processes, two saves at once would meet at barriers of one name."""
    if jax.process_count() > 1:
        other.wait_until_finished()


def _copied(tree: Tree) -> Tree:
    return jax.tree.map(jnp.copy, tree)


def _abstract(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def write_card(stage_dir: Path, description: Description, summary: dict) -> None:
    """Marks the stage as finished. Written whole or not at all."""
    card = {"description": specs.encode(description)} | summary
    write_whole(stage_dir / CARD, json.dumps(card, indent=2) + "\n")


def read_card(stage_dir: Path) -> dict | None:
    """None where the stage is not finished. Raises UserError for a file that is cut short."""
    path = stage_dir / CARD
    if not path.exists():
        return None
    with _reading(stage_dir):
        return {**json.loads(path.read_text())}


@contextlib.contextmanager
def _reading(stage_dir: Path):
    """What a card lacks, as a UserError."""
    try:
        yield
    except UserError:
        raise  # it is a ValueError too, and has its own words
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{stage_dir / CARD} is not the card of a finished stage ({type(error).__name__}: {error}): it is damaged, "
            "or of another version; give another folder, or remove the file and let the run write it again"
        ) from None


def find_stage(checkpoint: Path) -> Path:
    """The finished stage that a path means: the stage's own folder, or the last one finished in a workdir."""
    if not checkpoint.exists():
        raise UserError(f"checkpoint {checkpoint} does not exist: give the workdir of a run, or a stage in it")
    if (checkpoint / CARD).exists():
        return checkpoint
    cards = sorted(checkpoint.glob(f"*/{CARD}"), key=modified)
    if not cards:
        raise UserError(f"checkpoint {checkpoint} holds no finished stage: let its run end, or give another folder")
    return cards[-1].parent


def read_description(stage_dir: Path) -> Description:
    """Of a finished stage. Raises UserError where this version does not know what it holds."""
    with _reading(stage_dir):
        saved = read_card(stage_dir)["description"]
        return Description(**{name: specs.decode(saved[name], str(stage_dir)) for name in saved if name != "type"})


def read_trained(checkpoint: Path) -> Description:
    """What load_trained gives first, without its weights."""
    return read_description(absolute(find_stage(as_path(checkpoint))))


def trained_on(checkpoint: Path) -> tuple[str, str]:
    """The data set and the split that a finished stage was trained on; `train` where its card does not say."""
    stage_dir = absolute(find_stage(as_path(checkpoint)))
    with _reading(stage_dir):
        saved = {"split": "train"} | (read_card(stage_dir).get("trained_on") or {})
        return saved.get("data", read_description(stage_dir).data), saved["split"]


def load_trained(checkpoint: Path, mesh: Mesh | None = None) -> tuple[Description, dict]:
    """(description, {"params", "batch_stats"}) of a finished stage, on every device of the mesh."""
    stage_dir = absolute(find_stage(as_path(checkpoint)))
    description = read_description(stage_dir)
    with _reading(stage_dir):
        selected = read_card(stage_dir)["selected"]
    return description, load_variables(stage_dir, description, selected, mesh or make_mesh())


def load_variables(stage_dir: Path, description: Description, selected: str, mesh: Mesh) -> dict:
    """{"params", "batch_stats"} of the "latest" or the "best" save of a stage; moments stay on disk."""
    network, place = description.network(), replicated(mesh)
    shapes = variable_shapes(network, description.image_size)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)
    folder = absolute(stage_dir) / "checkpoints" / selected
    with ocp.CheckpointManager(folder) as manager:
        step = manager.latest_step()
        if step is None:
            raise UserError(f"{folder} holds no checkpoint: it was removed after the stage had finished")
        if selected == "best":
            return manager.restore(step, args=ocp.args.StandardRestore(like))
        partial = ocp.args.PyTreeRestore(
            item=like, restore_args=ocp.checkpoint_utils.construct_restore_args(like), partial_restore=True
        )
        return manager.restore(step, args=ocp.args.Composite(state=partial)).state
