"""Our training step and our inference as contestants: the very functions that training and evaluation compile."""

import time
from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np

from agejax.models import cost, folding
from agejax.models.inputs import Inputs
from agejax.models.network import BACKBONES, CPU_PARTS, Network, apply_in_parts, init_variables, make_network
from agejax.objectives import JointLabelDistribution
from agejax.training.compilation import training_options
from agejax.training.optim import make_optimizer
from agejax.training.optim.rules import Adam
from agejax.training.optim.schedules import StepDecay
from agejax.training.state import TrainState, new_state
from agejax.training.step import Update, make_update

OBJECTIVE = JointLabelDistribution()
OPTIMIZER = Adam(learning_rate=1e-4)
AT_ONCE = 8  # steps in one dispatch, on accelerators, where training has many


@dataclass(frozen=True)
class Case:
    """One network, in one precision, at one size."""

    model: str
    dtype: str
    size: int

    @property
    def name(self) -> str:
        return f"{self.model}, {self.dtype}"

    @property
    def inputs(self) -> Inputs:
        backbone = BACKBONES[self.model]
        return backbone.inputs or backbone.usual_inputs

    @cached_property
    def network(self) -> Network:
        return make_network(BACKBONES[self.model], OBJECTIVE.head, self.dtype)

    @cached_property
    def macs(self) -> int:
        """Multiply-adds of an image, forward."""
        return cost.macs(self.network, self.size)

    @cached_property
    def bytes_in_training(self) -> tuple[int, int]:
        """Of an image, every layer a pass of its own; and of a step's parameters."""
        known = (self.network, self.size, self.dtype, True)
        return cost.bytes_per_image(*known), cost.bytes_per_step(*known)

    @cached_property
    def bytes_in_inference(self) -> tuple[int, int]:
        """Of an image, with norms folded and activations fused; and of a batch's parameters."""
        known = (self.network, self.size, self.dtype, False)
        return cost.bytes_per_image(*known, fused=True), cost.bytes_per_step(*known)

    @cached_property
    def variables(self) -> dict:
        """Fresh ones, on the host."""
        return jax.device_get(init_variables(jax.random.key(0), self.network, self.size))


def drawn_batch(batch: int, size: int) -> dict[str, np.ndarray]:
    """A batch of noise as in data_pipelines/schema.py: speed does not depend on what the pixels show."""
    rng = np.random.default_rng(0)
    label = rng.uniform(5, 80, batch).astype(np.float32)
    return {
        "image": rng.integers(0, 256, (batch, size, size, 3), np.uint8),
        "label": label,
        "sigma": np.full(batch, 2.0, np.float32),
        "identity": np.full(batch, -1, np.int32),
        "mask": np.ones(batch, np.float32),
        "index": np.arange(batch, dtype=np.int32),
    }


def new_training(case: Case) -> tuple[Update, TrainState]:
    """What the step does, and a state to begin with."""
    variables = jax.device_put(case.variables)
    optimizer = make_optimizer(OPTIMIZER, StepDecay(), variables["params"], "", 1000, 100.0)
    return make_update(case.network, OBJECTIVE, optimizer), new_state(variables, optimizer)


class Work:
    """Compiled; `start` does it once without waiting, `wait` waits for all that was started."""

    def __init__(self, program, arguments: tuple, batch: int, steps: int = 1, **options):
        """`options` are those of jax.jit."""
        began = time.perf_counter()
        self.compiled = jax.jit(program, **options).lower(*arguments).compile()
        self.batch, self.steps, self.memory = batch, steps, planned_bytes(self.compiled)
        self.arguments, self.result = arguments, None
        self.start()
        self.wait()
        self.seconds_to_compile = time.perf_counter() - began

    def start(self) -> None:
        self.result = self.compiled(*self.arguments)

    def wait(self) -> None:
        jax.block_until_ready(self.result)


class Training(Work):
    """Forward, backward, Adam; `at_once` steps in each dispatch, whose pixels lie on the device."""

    def __init__(self, case: Case, batch: int, at_once: int = 1):
        update, state = new_training(case)
        given = jax.device_put(drawn_batch(batch, case.size))
        if at_once > 1:
            given = jax.tree.map(lambda x: jnp.stack([x] * at_once), given)
            program = partial(jax.lax.scan, update)
        else:
            program = update
        options = training_options(jax.default_backend())
        super().__init__(program, (state, given), batch, at_once, donate_argnums=0, compiler_options=options)

    def start(self) -> None:
        state, self.result = self.compiled(*self.arguments)
        self.arguments = (state, self.arguments[1])

    @property
    def state(self) -> TrainState:
        return self.arguments[0]


class Inference(Work):
    """Raw uint8 pixels on the device → ages; norms are folded into the convolutions."""

    def __init__(self, case: Case, batch: int):
        network, variables = folding.fold(case.network, jax.device_put(case.variables))
        image = jax.device_put(drawn_batch(batch, case.size)["image"])

        parts = CPU_PARTS if jax.default_backend() == "cpu" else 1

        def ages(variables, image):
            return OBJECTIVE.predict(apply_in_parts(network, variables, image, parts)["logits"])[0]

        super().__init__(ages, (variables, image), batch)


def planned_bytes(compiled) -> int | None:
    """Device memory that the program needs, as the compiler planned it: arguments, results and temporaries."""
    plan = compiled.memory_analysis()
    if plan is None:
        return None
    whole = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
    return whole - plan.alias_size_in_bytes
