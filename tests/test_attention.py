"""The attention route: plain numbers under every transform, limits at infinity, no array of edges x channels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqx_graph import EdgeIndex, EdgeList, ops


NUM_NODES, NUM_EDGES, HEADS, CHANNELS = 8, 40, 2, 3
RNG = np.random.default_rng(0)
ENDS = np.stack([RNG.integers(0, NUM_NODES, NUM_EDGES), RNG.integers(0, NUM_NODES - 2, NUM_EDGES)])
MASK = (RNG.random(NUM_EDGES) < 0.8) & (ENDS[1] != 3)  # node 3 has masked edges only, 6 and 7 have none
LOGITS, VALUES = 3 * RNG.normal(size=(NUM_EDGES, HEADS)), RNG.normal(size=(NUM_NODES, HEADS, CHANNELS))
OWN = RNG.normal(size=(NUM_NODES, HEADS))


def layouts(mask=MASK):
    plain = EdgeList.from_array(ENDS, num_senders=NUM_NODES, num_receivers=NUM_NODES, edge_mask=mask)
    return plain, EdgeIndex.from_array(ENDS, num_senders=NUM_NODES, num_receivers=NUM_NODES, edge_mask=mask)


def dense(logits, values, own, mask):
    """Attention by a loop over receivers."""
    out, weights = np.zeros(VALUES.shape), np.zeros(LOGITS.shape)
    for i in range(NUM_NODES):
        edges = np.flatnonzero((ENDS[1] == i) & mask)
        z = logits[edges] if own is None else np.concatenate([logits[edges], own[i : i + 1]])
        v = values[ENDS[0][edges]] if own is None else np.concatenate([values[ENDS[0][edges]], values[i : i + 1]])
        if len(z):
            alpha = np.exp(z - z.max(0)) / np.exp(z - z.max(0)).sum(0)
            weights[edges] = alpha[: len(edges)]
            out[i] = (alpha[..., None] * v).sum(0)
    return out, weights


@pytest.mark.parametrize("scale", [1, 200])  # at 200, exponentials relative to the largest logit of all would vanish
@pytest.mark.parametrize("own", [None, OWN])
def test_values_and_weights(own, scale):
    with jax.enable_x64(True):
        expected, weights = dense(scale * LOGITS, VALUES, own, MASK)
        own = None if own is None else jnp.asarray(own)
        for edges in layouts():
            logits = edges.arrange(jnp.asarray(scale * LOGITS))
            out, alpha = ops.attention(edges, logits, jnp.asarray(VALUES), self_logits=own, return_weights=True)
            np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(edges.restore(alpha[0]), weights, rtol=1e-12, atol=1e-300)
            assert (alpha[1] is None) == (own is None)


def test_self_logits_are_self_loops():
    with jax.enable_x64(True):
        edges = layouts()[1].remove_self_loops()
        logits, values, own = edges.arrange(jnp.asarray(LOGITS)), jnp.asarray(VALUES), jnp.asarray(OWN)
        looped = layouts()[1].with_self_loops()
        both = looped.arrange(jnp.concatenate([jnp.asarray(LOGITS), own]))
        ours = ops.attention(edges, logits, values, self_logits=own)
        np.testing.assert_allclose(ours, ops.attention(looped, both, values), rtol=1e-12)


def test_every_transform_agrees_with_the_plain_route():
    def transforms(edges, logits, values, own):
        def function(logits, values):
            return ops.attention(edges, edges.arrange(logits), values, self_logits=own)

        def loss(logits, values):
            return jnp.sum(jnp.sin(function(logits, values)))

        def loss_with_weights(logits, values):
            out, (weights, own_weights) = ops.attention(
                edges, edges.arrange(logits), values, self_logits=own, return_weights=True
            )
            assert own_weights is not None
            return jnp.sum(jnp.sin(out)) + jnp.sum(edges.restore(weights) ** 2) + jnp.sum(jnp.cos(own_weights))

        gradient = jax.grad(loss, (0, 1))
        return {
            "gradient of weights": jax.grad(loss_with_weights, (0, 1))(logits, values),
            "hessian of weights": jax.hessian(loss_with_weights)(logits, values),
            "reverse over reverse": jax.jacrev(jax.jacrev(loss))(logits, values),
            "gradient": gradient(logits, values),
            "tangent": jax.jvp(function, (logits, values), (jnp.cos(logits), values + 1)),
            "hessian": jax.hessian(loss, (0, 1))(logits, values),
            "vmap gradient": jax.vmap(gradient)(jnp.stack([logits, 2 * logits]), jnp.stack([values, -values])),
            "checkpoint": jax.grad(jax.checkpoint(loss), 1)(logits, values),
            "scan": jax.lax.scan(lambda c, v: (c + loss(logits, v), None), 0.0, jnp.stack([values, -values]))[0],
        }

    with jax.enable_x64(True):
        run = jax.jit(transforms)
        args = [jnp.asarray(a) for a in (LOGITS, VALUES, OWN)]
        reference, ours = (run(edges, *args) for edges in layouts())
        for name, value in reference.items():
            for a, b in zip(jax.tree.leaves(ours[name]), jax.tree.leaves(value), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13, err_msg=name)


def test_infinite_logits_and_empty_neighbourhoods():
    """Receiver 0: one +inf; 1: two +inf; 2: -inf only; 3: -inf beside a number; 4: nothing."""
    ends = np.array([[0, 1, 2, 3, 4, 0, 1], [0, 0, 1, 1, 2, 3, 3]])
    logits = jnp.array([jnp.inf, 0, jnp.inf, jnp.inf, -jnp.inf, -jnp.inf, 2.0])[:, None]
    expected = np.array([1, 0, 0.5, 0.5, 0, 0, 1])
    values = jnp.arange(5.0)[:, None, None]
    sizes: dict[str, Any] = {"num_senders": 5, "num_receivers": 5}
    for edges in (EdgeIndex.from_array(ends, **sizes), EdgeList.from_array(ends, **sizes)):

        def loss(logits, values, edges=edges):
            out, (weights, _) = ops.attention(edges, logits, values, return_weights=True)
            return jnp.sum(out**2), weights

        (value, weights), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(edges.arrange(logits), values)
        np.testing.assert_array_equal(edges.restore(weights)[:, 0], expected)
        assert np.isfinite(value) and all(np.all(np.isfinite(g)) for g in gradients)
    large = jnp.array([1e30, -1e30, 3e38, 3e38, 0.0, -3e38, 3e38])[:, None]
    assert np.all(np.isfinite(ops.attention(edges, large, values)))


def test_nothing_of_size_edges_times_channels_in_either_pass():
    num_nodes, num_edges, heads, channels = 1000, 100_000, 4, 32
    ends = np.random.default_rng(0).integers(0, num_nodes, (2, num_edges))
    edges = EdgeIndex.from_array(ends, num_senders=num_nodes, num_receivers=num_nodes)
    logits, values = jnp.ones((num_edges, heads)), jnp.ones((num_nodes, heads, channels))

    def loss(edges, logits, values):
        return jnp.sum(ops.attention(edges, logits, values, self_logits=values[..., 0]) ** 2)

    traced = jax.jit(jax.grad(loss, (1, 2))).trace(edges, logits, values)
    wide = num_edges * heads * channels
    assert max(shape_sizes(traced.jaxpr.jaxpr)) < wide
    program = traced.lower().compile()
    assert temporary_bytes_of(program) < wide * 4 / 3
    for shape in (f"[{num_edges},{heads},{channels}]", f"[{num_edges},{heads * channels}]"):
        assert shape not in (program.as_text() or "")


def shape_sizes(jaxpr):
    """Numbers of elements of every value in a program, its inner programs included."""
    for eqn in jaxpr.eqns:
        yield from (v.aval.size for v in eqn.outvars if hasattr(v.aval, "size"))
        for param in eqn.params.values():
            for inner in param if isinstance(param, tuple | list) else (param,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from shape_sizes(inner)


def test_narrow_types_are_kept():
    expected, _ = dense(LOGITS, VALUES, None, MASK)
    for edges in layouts():
        logits = edges.arrange(jnp.asarray(LOGITS, jnp.bfloat16))
        out, pullback = jax.vjp(lambda z, v, e=edges: ops.attention(e, z, v), logits, jnp.asarray(VALUES, jnp.bfloat16))
        assert {a.dtype for a in (out, *pullback(out))} == {jnp.dtype(jnp.bfloat16)}
        np.testing.assert_allclose(out.astype(float), expected, rtol=0.05, atol=0.05)


def test_bipartite_has_no_self_logits():
    edges = EdgeIndex.from_array(np.array([[0, 2], [1, 1]]), num_senders=3, num_receivers=2)
    out = ops.attention(edges, jnp.zeros((2, 1)), jnp.arange(3.0)[:, None, None])
    np.testing.assert_array_equal(out[:, 0, 0], [0, 1])
    with pytest.raises(ValueError, match="`self_logits` needs one set of nodes; got num_senders=3 and"):
        ops.attention(edges, jnp.zeros((2, 1)), jnp.zeros((3, 1, 1)), self_logits=jnp.zeros((3, 1)))


def temporary_bytes_of(compiled):
    """Bytes of temporary memory that a program was compiled to take."""
    return compiled.memory_analysis().temp_size_in_bytes
