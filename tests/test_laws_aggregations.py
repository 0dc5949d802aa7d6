"""Laws of every aggregation in the registry: order, padding rows, empty groups, batching, derivatives, dtypes."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from law_support import all_finite, assert_close, cast, check_serialises, derivative_error, value_and_gradients
from registry import AGGREGATIONS


NUM_GROUPS, NUM_FEATURES = 4, 3
INDEX = np.array([0, 2, 0, 3, 3, 0, 2, 3], dtype=np.int32)  # group 1 is empty
pytestmark = pytest.mark.usefixtures("light_compilation")
everywhere = pytest.mark.parametrize("make", AGGREGATIONS.values(), ids=AGGREGATIONS)


def _rows(seed: int = 0) -> jax.Array:
    """Positive, since powers and products of both signs are another matter; no two rows tie."""
    return jnp.asarray(np.random.default_rng(seed).uniform(0.5, 2.0, (INDEX.size, NUM_FEATURES)).astype(np.float32))


def _facts(module: Any, x: jax.Array, index: jax.Array, order: jax.Array, cotangent: jax.Array) -> dict[str, Any]:
    def run(x, index):
        return value_and_gradients(lambda m, x: m(x, index, NUM_GROUPS), cotangent, module, x)

    out, (grad_module, grad_x) = plain = run(x, index)
    padded_x = jnp.concatenate([x, jnp.full((2, NUM_FEATURES), 1e3)])
    padded_out, (padded_module, padded_grad) = run(
        padded_x, jnp.concatenate([index, jnp.full(2, NUM_GROUPS, index.dtype)])
    )
    nobody = run(x[:0], index[:0])
    stacked = jnp.stack([x, 2 * x])
    looped = jnp.stack([module(v, index, NUM_GROUPS) for v in stacked])
    return {
        "row order": (run(x[order], index[order]), (out, (grad_module, grad_x[order]))),
        "ids outside contribute nothing": ((padded_out, (padded_module, padded_grad[:-2])), plain),
        "rows outside get no gradient": (padded_grad[-2:], jnp.zeros((2, NUM_FEATURES))),
        "vmap is the loop": (jax.vmap(lambda v: module(v, index, NUM_GROUPS))(stacked), looped),
        "finite, with an empty group": (all_finite(plain), jnp.array(True)),
        "finite, without rows": (all_finite(nobody), jnp.array(True)),
        "an empty group is as without rows": (out[1], nobody[0][1]),
    }


@everywhere
def test_aggregation_laws(make: Callable[..., Any]) -> None:
    module = make(jr.key(0))
    facts = eqx.filter_jit(eqx.debug.assert_max_traces(_facts, max_traces=1))
    rng = np.random.default_rng(3)
    index, order = jnp.asarray(INDEX), jnp.asarray(rng.permutation(INDEX.size))
    out = eqx.filter_eval_shape(lambda m, x: m(x, index, NUM_GROUPS), module, _rows())
    cotangent = jnp.asarray(rng.normal(size=out.shape).astype(np.float32))
    for seed in (0, 1):  # one trace serves both
        for what, (got, want) in facts(module, _rows(seed), index, order, cotangent).items():
            assert_close(got, want, what)
    assert_close(module(_rows(), index, NUM_GROUPS), eqx.filter_jit(module)(_rows(), index, NUM_GROUPS), "jit is eager")


@everywhere
def test_aggregation_derivatives(make: Callable[..., Any]) -> None:
    with jax.enable_x64(True):
        point = cast((make(jr.key(0)), _rows()), jnp.float64)
        forward, reverse = derivative_error(lambda p: p[0](p[1], jnp.asarray(INDEX), NUM_GROUPS), point)
    assert forward < 1e-6, f"forward mode differs from finite differences by {forward:.1e}"
    assert reverse < 1e-10, f"reverse mode differs from forward mode by {reverse:.1e}"


@everywhere
def test_aggregation_keeps_the_dtype_and_saves(make: Callable[..., Any]) -> None:
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        module, x = cast((make(jr.key(0)), _rows()), dtype)
        out, grads = eqx.filter_eval_shape(
            lambda m, x: value_and_gradients(lambda m, x: m(x, jnp.asarray(INDEX), NUM_GROUPS), jnp.ones(()), m, x),
            module,
            x,
        )
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves((out, eqx.filter(grads, eqx.is_array))))
    check_serialises(make)
