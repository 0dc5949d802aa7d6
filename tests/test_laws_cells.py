"""Laws of every cell in the registry: scanned, looped, batched, compiled or saved, it computes the same."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_dynamics import scan
from law_support import all_finite, assert_close, cast, check_serialises, derivative_error, perturbed
from registry import CELLS, Cell


NUM_STEPS, BATCH = 4, 2
pytestmark = pytest.mark.usefixtures("light_compilation")
everywhere = pytest.mark.parametrize(
    "cell", [pytest.param(c, marks=[pytest.mark.slow] * c.slow) for c in CELLS.values()], ids=CELLS
)


def _make(cell: Cell) -> Any:
    return perturbed(cell.make(jr.key(0)))


def _inputs(cell: Cell, seed: int = 0) -> jax.Array:
    """`(time, batch, *shape)` inputs."""
    x = np.random.default_rng(seed).normal(size=(NUM_STEPS, BATCH, *cell.shape))
    return jnp.asarray((cell.scale * x).astype(np.float32))


def _scanned(module: Any, xs: jax.Array, state: Any, **how: Any) -> tuple[Any, Any]:
    return scan(module, xs, state, **how)


def _looped(module: Any, xs: jax.Array, state: Any) -> tuple[Any, Any]:
    ys = []
    for x in xs:
        y, state = module(x, state)
        ys.append(y)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *ys), state


def _with_gradients(run: Any, module: Any, xs: jax.Array, state: Any) -> tuple[Any, Any]:
    """Outputs, final state, and the gradients of a weighted sum of both in the module's arrays, inputs and state."""

    def loss(floats):
        ys, final = run(*floats)
        parts = [jnp.sum(a * jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape)) for a in _floats((ys, final))]
        return sum(parts, start=jnp.zeros(())), (ys, final)

    (_, out), grads = eqx.filter_value_and_grad(loss, has_aux=True)((module, xs, state))
    return out, grads


def _floats(tree: Any) -> list[jax.Array]:
    return jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))


def _facts(module: Any, xs: jax.Array, smaller: jax.Array) -> dict[str, tuple[Any, Any]]:
    """Everything the laws compare, as one program: name -> (got, want)."""
    state = module.init_state((BATCH,))
    looped = _with_gradients(_looped, module, xs, state)
    facts = {
        "scan is the step loop, with gradients": (_with_gradients(_scanned, module, xs, state), looped),
        "chunks change nothing": (_scanned(module, xs, state, chunk=3), looped[0]),
        "gradients are finite": (all_finite(looped), jnp.array(True)),
    }

    # A batch axis is a vmap: of the cell over samples, and of the whole scan over time.
    batched_step = module(xs[0], state)
    one = module.init_state()
    samples = [module(x, one) for x in xs[0]]
    facts["the state has the batch axes asked for"] = state, jax.tree.map(lambda a: jnp.stack([a] * BATCH), one)
    facts["a batch is the loop over samples"] = batched_step, jax.tree.map(lambda *a: jnp.stack(a), *samples)
    over_samples = jax.vmap(lambda x: _scanned(module, x, one), in_axes=1, out_axes=(1, 0))
    facts["vmap over samples of the scan"] = over_samples(xs), looped[0]

    # The first half, then the second from where it stopped.
    head, middle = _scanned(module, xs[:2], state)
    tail, final = _scanned(module, xs[2:], middle)
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), head, tail), final
    facts["a scan can be resumed"] = joined, looped[0]

    both = _scanned(module, jnp.concatenate([xs, smaller], axis=1), module.init_state((2 * BATCH,)))
    alone = jax.tree.map(lambda a: a[:, :BATCH], both[0]), jax.tree.map(lambda a: a[:BATCH], both[1])
    facts["what else is in the batch does not matter"] = alone, looped[0]
    return facts


@everywhere
def test_cell_laws(cell: Cell) -> None:
    module = _make(cell)
    facts = eqx.filter_jit(eqx.debug.assert_max_traces(_facts, max_traces=1))
    for seed in (0, 1):  # one trace serves both
        xs = _inputs(cell, seed)
        for what, (got, want) in facts(module, xs, 0.5 * xs).items():
            assert_close(got, want, what)


@everywhere
def test_cell_eagerly_as_under_jit(cell: Cell) -> None:
    module, xs = _make(cell), _inputs(cell)
    state = module.init_state((BATCH,))
    assert_close(module(xs[0], state), eqx.filter_jit(module)(xs[0], state), "jit is eager")


@everywhere
def test_cell_derivatives(cell: Cell) -> None:
    if not cell.smooth:
        pytest.skip("a surrogate's derivative is not the function's")
    with jax.enable_x64(True):
        module, xs = cast((_make(cell), _inputs(cell)), jnp.float64)
        state = module.init_state((BATCH,))

        def outputs(point):
            return jnp.concatenate([a.ravel() for a in _floats(_scanned(point[0], point[1], state))])

        forward, reverse = derivative_error(outputs, (module, xs))
    assert forward < 1e-6, f"forward mode differs from finite differences by {forward:.1e}"
    assert reverse < 1e-10, f"reverse mode differs from forward mode by {reverse:.1e}"


@everywhere
def test_cell_keeps_dtypes_and_shapes_of_its_state(cell: Cell) -> None:
    """Outputs come in the input's dtype; the state keeps its own, or a scan could not carry it."""
    for dtype in (jnp.float32, jnp.bfloat16):
        module, xs = cast((_make(cell), _inputs(cell)), dtype)
        state = module.init_state((BATCH,))
        out, new = eqx.filter_eval_shape(module, xs[0], state)
        assert all(leaf.dtype == dtype for leaf in _floats_of_shapes(out))
        shapes = jax.tree.map(lambda a: (a.shape, a.dtype), (eqx.filter(state, eqx.is_array), new))
        assert shapes[0] == shapes[1]


def _floats_of_shapes(tree: Any) -> list[jax.ShapeDtypeStruct]:
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]


@everywhere
def test_cell_serialises(cell: Cell) -> None:
    check_serialises(cell.make)
