"""Laws of every layer in the registry: what must hold whatever the layer computes."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_graph import EdgeIndex
from law_support import (
    EDGES,
    NUM_EDGES,
    NUM_NODES,
    all_finite,
    assert_close,
    cast,
    check_serialises,
    derivative_error,
    perturbed,
    value_and_gradients,
)
from registry import CONVS, EDGE_FEATURES, NUM_FEATURES, Conv


pytestmark = pytest.mark.usefixtures("light_compilation")
everywhere = pytest.mark.parametrize("conv", CONVS.values(), ids=CONVS)


def _edge_values(conv: Conv, rng: np.random.Generator, num_edges: int = NUM_EDGES) -> tuple[np.ndarray, ...]:
    """The per-edge argument, or nothing."""
    shape = {"edge_weight": (num_edges,), "edge_attr": (num_edges, EDGE_FEATURES), None: None}[conv.edge]
    return () if shape is None else (rng.uniform(0.5, 1.5, shape).astype(np.float32),)


def _inputs(conv: Conv, seed: int = 0) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(NUM_NODES, NUM_FEATURES)).astype(np.float32)
    return jnp.asarray(x), tuple(map(jnp.asarray, _edge_values(conv, rng)))


def _make(conv: Conv) -> Any:
    return perturbed(conv.make(jr.key(0)))


def _call(module: Any, x: jax.Array, edges: tuple[jax.Array, ...], edge_index: Any) -> jax.Array:
    return module(x, edge_index, *edges)


def _facts(module, x, edges, edge_index, node_order, edge_order, cotangent):
    """Everything the laws compare, as one program: name -> (got, want)."""

    def run(edge_index, cotangent, module, x, edges):
        return value_and_gradients(lambda m, x, e: _call(m, x, e, edge_index), cotangent, module, x, edges)

    out, (grad_module, grad_x, grad_edges) = plain = run(edge_index, cotangent, module, x, edges)
    facts = {}

    layout = EdgeIndex.from_array(edge_index, num_senders=NUM_NODES, num_receivers=NUM_NODES)
    facts["compressed layout agrees"] = run(layout, cotangent, module, x, edges), plain

    # Node i becomes node `rank[i]`; edges are listed in another order.
    rank = jnp.argsort(node_order)
    moved_edges = jax.tree.map(lambda a: a[edge_order], edges)
    moved = run(rank[edge_index][:, edge_order], cotangent[node_order], module, x[node_order], moved_edges)
    moved_back = jax.tree.map(lambda a: a[edge_order], grad_edges)
    facts["permutation"] = moved, (out[node_order], (grad_module, grad_x[node_order], moved_back))

    # Two padding nodes, three padding edges from the last node to itself; the loss reads no padding row.
    pad_rows = lambda a, rows: jnp.concatenate([a, jnp.ones((rows, *a.shape[1:]), a.dtype)])  # noqa: E731
    padding_edges = jnp.full((2, 3), NUM_NODES + 1, edge_index.dtype)
    padded_cotangent = jnp.concatenate([cotangent, jnp.zeros((2, cotangent.shape[1]), cotangent.dtype)])
    padded_out, (padded_module, padded_x, padded_edges) = run(
        jnp.concatenate([edge_index, padding_edges], axis=1),
        padded_cotangent,
        module,
        pad_rows(x, 2),
        jax.tree.map(lambda a: pad_rows(a, 3), edges),
    )
    real = (padded_out[:NUM_NODES], (padded_module, padded_x[:NUM_NODES], jax.tree.map(lambda a: a[:-3], padded_edges)))
    facts["padding changes nothing"] = real, plain

    # A masked edge is an absent edge.
    kept = jnp.arange(NUM_EDGES) != NUM_EDGES - 1
    masked = _call(module, x, edges, layout.with_edge_mask(layout.arrange(kept)))
    absent = _call(module, x, jax.tree.map(lambda a: a[:-1], edges), edge_index[:, :-1])
    facts["masked edge"] = masked, absent

    stacked = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), (x, edges))
    looped = jnp.stack([out, _call(module, 2 * x, jax.tree.map(lambda a: 2 * a, edges), edge_index)])
    facts["vmap is the loop"] = jax.vmap(lambda x, e: _call(module, x, e, edge_index))(*stacked), looped

    no_edges = jax.tree.map(lambda a: a[:0], edges)
    facts["no edges is finite"] = all_finite(run(edge_index[:, :0], cotangent, module, x, no_edges)), jnp.array(True)
    nothing = run(edge_index[:, :0], cotangent[:0], module, x[:0], no_edges)
    facts["no nodes is finite"] = all_finite(nothing), jnp.array(True)
    facts["no nodes has no rows"] = nothing[0], out[:0]
    facts["finite"] = all_finite(plain), jnp.array(True)
    return facts


@everywhere
def test_conv_laws(conv: Conv) -> None:
    module = _make(conv)
    facts = eqx.filter_jit(eqx.debug.assert_max_traces(_facts, max_traces=1))
    rng = np.random.default_rng(5)
    node_order, edge_order = jnp.asarray(rng.permutation(NUM_NODES)), jnp.asarray(rng.permutation(NUM_EDGES))
    edge_index = jnp.asarray(EDGES)
    for seed in (0, 1):  # one trace serves both
        x, edges = _inputs(conv, seed)
        out = eqx.filter_eval_shape(_call, module, x, edges, edge_index)
        cotangent = jnp.asarray(rng.normal(size=out.shape).astype(np.float32))
        for what, (got, want) in facts(module, x, edges, edge_index, node_order, edge_order, cotangent).items():
            assert_close(got, want, what)


@everywhere
def test_conv_eagerly_as_under_jit(conv: Conv) -> None:
    module = _make(conv)
    args = (module, *_inputs(conv), jnp.asarray(EDGES))
    assert_close(_call(*args), eqx.filter_jit(_call)(*args), "jit is eager")


@everywhere
def test_conv_derivatives(conv: Conv) -> None:
    if not conv.smooth:
        pytest.skip("finite differences need a smooth layer")
    with jax.enable_x64(True):
        module, x, edges = cast((_make(conv), *_inputs(conv)), jnp.float64)
        forward, reverse = derivative_error(lambda p: _call(p[0], p[1], p[2], jnp.asarray(EDGES)), (module, x, edges))
    assert forward < 1e-6, f"forward mode differs from finite differences by {forward:.1e}"
    assert reverse < 1e-10, f"reverse mode differs from forward mode by {reverse:.1e}"


@everywhere
def test_conv_keeps_the_dtype(conv: Conv) -> None:
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        module, x, edges = cast((_make(conv), *_inputs(conv)), dtype)
        for edge_index in (
            jnp.asarray(EDGES),
            EdgeIndex.from_array(EDGES, num_senders=NUM_NODES, num_receivers=NUM_NODES),
        ):
            out, grads = eqx.filter_eval_shape(
                lambda m, x, e, ei: value_and_gradients(lambda m, x, e: _call(m, x, e, ei), jnp.ones(()), m, x, e),
                module, x, edges, edge_index,
            )  # fmt: skip
            assert out.dtype == dtype
            assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(eqx.filter(grads, eqx.is_array)))


@everywhere
def test_conv_serialises(conv: Conv) -> None:
    check_serialises(conv.make)
