"""The spiking step that `spiking.py` and its peers time: shapes, spikes, weights, the loss, and how it is compiled."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


BETA, SLOPE = 0.9, 25.0


class Shape(NamedTuple):
    """Steps, batch, and the sizes of input, two hidden layers and readout."""

    num_steps: int
    batch: int
    inputs: int
    hidden: int
    outputs: int


SHAPES = {
    "wide": Shape(100, 128, 700, 128, 20),
    "long": Shape(500, 16, 100, 128, 10),
    "recurrent": Shape(1000, 16, 100, 128, 10),
}


class Problem(NamedTuple):
    """Spikes, weights (out, in) and labels, all NumPy."""

    shape: Shape
    x: np.ndarray
    weights: tuple[np.ndarray, ...]
    y: np.ndarray


class Variant(NamedTuple):
    """Something to time: forward plus backward, and what its compiler says of it."""

    run: Callable[[], Any]
    facts: dict[str, Any]


def make_problem(shape: Shape, *, recurrent: bool) -> Problem:
    rng = np.random.RandomState(0)
    x = (rng.rand(shape.num_steps, shape.batch, shape.inputs) < 0.03).astype(np.float32)
    scale = np.sqrt(700 / shape.inputs)
    first = (rng.randn(shape.hidden, shape.inputs) * 0.12 * scale + 0.006 * scale).astype(np.float32)
    middle = rng.randn(shape.hidden, shape.hidden) * (0.05 if recurrent else 0.16) + (0 if recurrent else 0.02)
    last = (rng.randn(shape.outputs, shape.hidden) * 0.1).astype(np.float32)
    return Problem(shape, x, (first, middle.astype(np.float32), last), rng.randint(0, shape.outputs, shape.batch))


def cross_entropy(logits: jax.Array, y: np.ndarray) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(y)).mean()


def compiled(loss: Callable, parameters: Any, x: jax.Array) -> Variant:
    """Loss and gradient, compiled ahead of time, with its temporary memory, compile time and loss."""
    step = jax.jit(jax.value_and_grad(loss))
    start = time.perf_counter()
    lowered = step.lower(parameters, x)
    executable = lowered.compile()
    seconds = time.perf_counter() - start
    memory = executable.memory_analysis().temp_size_in_bytes / 2**20
    facts = {"temp_mb": round(memory, 1), "compile_s": round(seconds, 2)}
    return Variant(lambda: jax.block_until_ready(executable(parameters, x)), facts)
