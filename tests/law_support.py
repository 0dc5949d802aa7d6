"""What the laws share: a small graph with every awkward feature, comparisons, derivatives without automatic ones."""

import io
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PRNGKeyArray


NUM_NODES = 6
# Node 2 has a self-loop, 0 -> 1 is there twice, node 4 only sends, node 3 only receives, node 5 is isolated.
EDGES = np.array([[0, 0, 1, 2, 2, 4, 0, 1, 4], [1, 1, 0, 2, 3, 1, 2, 3, 0]], dtype=np.int32)
NUM_EDGES = EDGES.shape[1]
TOLERANCE = 2e-5  # float32 sums of about ten terms in another order


def assert_close(got: Any, want: Any, what: str, tolerance: float = TOLERANCE) -> None:
    """Same tree, shapes and dtypes; every float within `tolerance`, relative and absolute."""
    assert jtu.tree_structure(got) == jtu.tree_structure(want), f"{what}: {got} against {want}"
    for (path, a), b in zip(jtu.tree_leaves_with_path(got), jtu.tree_leaves(want), strict=True):
        name = f"{what}{jtu.keystr(path)}"
        assert (a.shape, a.dtype) == (b.shape, b.dtype), f"{name}: {a.shape} {a.dtype} against {b.shape} {b.dtype}"
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance, err_msg=name)


def all_finite(tree: Any) -> Array:
    """Whether every float of a tree is finite (under jit)."""
    return jnp.all(
        jnp.array([jnp.all(jnp.isfinite(a)) for a in jtu.tree_leaves(eqx.filter(tree, eqx.is_inexact_array))])
    )


def value_and_gradients(fn: Callable[..., Array], cotangent: Array, *floats: Any) -> tuple[Array, Any]:
    """`fn(*floats)` and the gradients of `sum(fn(*floats) * cotangent)` with respect to their inexact arrays."""

    def loss(floats):
        out = fn(*floats)
        return jnp.sum(out * cotangent.astype(out.dtype)), out

    (_, out), grads = eqx.filter_value_and_grad(loss, has_aux=True)(floats)
    return out, grads


def derivative_error(fn: Callable[[Any], Array], point: Any, step: float = 1e-5) -> tuple[float, float]:
    """How far forward mode is from central differences along a random direction, and reverse mode from forward mode.

    Both relative to the derivative's size; call in float64.
    """
    arrays, rest = eqx.partition(point, eqx.is_inexact_array)
    out = eqx.filter_eval_shape(fn, point)

    @jax.jit
    def errors(arrays, direction, cotangent):
        def f(arrays):
            return fn(eqx.combine(arrays, rest))

        def moved(size):
            return f(jax.tree.map(lambda a, d: a + size * d, arrays, direction))

        numeric = (moved(step) - moved(-step)) / (2 * step)
        _, forward = jax.jvp(f, (arrays,), (direction,))
        (grads,) = jax.vjp(f, arrays)[1](cotangent)
        products = jax.tree.map(lambda g, d: jnp.sum(g * d), grads, direction)
        reverse = sum(jax.tree.leaves(products), start=jnp.zeros(()))
        scale = 1 + jnp.max(jnp.abs(forward), initial=0.0)
        return (
            jnp.max(jnp.abs(numeric - forward), initial=0.0) / scale,
            jnp.abs(reverse - jnp.sum(cotangent * forward)) / (1 + jnp.abs(reverse)),
        )

    forward, reverse = errors(arrays, random_like(arrays, 2), random_like(out, 3))
    return float(forward), float(reverse)


def random_like(tree: Any, seed: int) -> Any:
    """A tree of normal draws, by NumPy: no program is compiled for them."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape).astype(a.dtype)), tree)


def perturbed(module: Any, seed: int = 1) -> Any:
    """The module with a little noise on every parameter, so that zero biases do not hide mistakes."""
    arrays, rest = eqx.partition(module, eqx.is_inexact_array)
    return eqx.combine(jax.tree.map(lambda a, n: a + 0.1 * n, arrays, random_like(arrays, seed)), rest)


def cast(tree: Any, dtype: Any) -> Any:
    """Every inexact array in another dtype."""
    return jax.tree.map(lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a, tree)


def check_serialises(make: Callable[[PRNGKeyArray], Any]) -> None:
    """Saved and loaded into a skeleton that never allocated: the same leaves. The skeleton is `filter_eval_shape`'s."""
    module = make(jr.key(1))
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, module)
    file.seek(0)
    loaded = eqx.tree_deserialise_leaves(file, eqx.filter_eval_shape(make, jr.key(0)))
    assert eqx.tree_equal(loaded, module)
