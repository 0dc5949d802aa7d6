"""The general route: blocks of edges give the plain route's numbers under every transform, in bounded memory."""

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_graph import EdgeIndex, EdgeList, ops
from eqx_graph.nn import MessagePassing, aggr
from eqx_graph.ops import _blocks


NUM_SENDERS, NUM_RECEIVERS, NUM_EDGES = 7, 9, 40
RNG = np.random.default_rng(0)
ENDS = np.stack([RNG.integers(0, NUM_SENDERS, NUM_EDGES), RNG.integers(0, NUM_RECEIVERS - 1, NUM_EDGES)])
MASK = RNG.random(NUM_EDGES) < 0.8
PER_CHANNEL = jnp.array([1.5, 2.0, 0.7, 1.0])


class Layer(MessagePassing):
    linear: eqx.nn.Linear
    aggregation: aggr.AbstractAggregation
    ties: bool = eqx.field(static=True, default=False)

    def message(self, x_i, x_j, weight):
        hidden = self.linear(jnp.concatenate([x_i, x_j["a"]]))
        return (jax.nn.relu(hidden) if self.ties else jnp.tanh(hidden)) * weight

    def __call__(self, senders, receivers, edge_index, weight, block_size=None):
        x = ({"a": senders, "unused": senders}, receivers)
        return self.propagate(edge_index, x=x, weight=weight, block_size=block_size)


def layouts(mask=MASK):
    sizes: dict[str, Any] = {"num_senders": NUM_SENDERS, "num_receivers": NUM_RECEIVERS}
    plain = EdgeList.from_array(ENDS, edge_mask=mask, **sizes)
    return plain, EdgeIndex.from_array(ENDS, edge_mask=mask, **sizes)


def arguments(dtype):
    keys = jr.split(jr.key(0), 4)
    linear = eqx.nn.Linear(5, 4, key=keys[0], dtype=dtype)
    draws = [
        jr.normal(k, s, dtype)
        for k, s in zip(keys[1:], ((NUM_SENDERS, 3), (NUM_RECEIVERS, 2), (NUM_EDGES,)), strict=True)
    ]
    return linear, *draws


STREAMING = {
    "sum": aggr.Sum(),
    "mean": aggr.Mean(),
    "max": aggr.Max(),
    "min": aggr.Min(),
    "mul": aggr.Mul(),
    "var": aggr.Var(),
    "std": aggr.Std(),
    "logsumexp": aggr.LogSumExp(),
    "softmax": aggr.Softmax(PER_CHANNEL),
    "softmax semi": aggr.Softmax(0.7, semi_grad=True),
    "powermean": aggr.PowerMean(PER_CHANNEL),
}
WHOLE = {"median": aggr.Median(), "quantile": aggr.Quantile((0.2, 0.7)), "sort": aggr.Sort(2)}


def in_double(aggregations, name):
    return jax.tree.map(lambda a: a.astype(float) if eqx.is_array(a) else a, aggregations[name])


def loss(linear, senders, receivers, weight, aggregation, edges, block_size, ties):
    out = Layer(linear=linear, aggregation=aggregation, ties=ties)(senders, receivers, edges, weight, block_size)
    return jnp.sum(jnp.sin(out) * jnp.arange(1.0, NUM_RECEIVERS + 1)[:, None])


def assert_close(ours, reference, name, rtol=1e-11):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("name", [*STREAMING, *WHOLE])
def test_blocks_give_the_plain_numbers(name):
    """Values and gradients in parameters, both sides' features, per-edge arguments and the aggregation's own."""
    with jax.enable_x64(True):
        linear, *arrays = arguments(jnp.float64)
        aggregation = in_double(STREAMING | WHOLE, name)
        dynamic, static = eqx.partition((linear, *arrays, aggregation), eqx.is_inexact_array)
        plain, compressed = layouts()

        def everything(edges, dynamic, block_size):
            both = []
            for ties in (False, True):

                def run(d, ties=ties):
                    parts = eqx.combine(d, static)
                    return loss(*parts[:5], edges=edges, block_size=block_size, ties=ties)

                tangents = jax.tree.map(lambda a: jnp.cos(3 * a), dynamic)
                both.append((jax.value_and_grad(run)(dynamic), jax.jvp(run, (dynamic,), (tangents,))))
            return both

        run = jax.jit(everything, static_argnums=2)
        reference = run(plain, dynamic, None)
        for block_size in (7, None):
            assert_close(run(compressed, dynamic, block_size), reference, f"{name}, blocks of {block_size}")


# One of each kind: a sum, a maximum, both. The rest are the same reductions, and compile for long.
EVERY_TRANSFORM = ("sum", "max", "softmax")


@pytest.mark.slow
@pytest.mark.parametrize("name", STREAMING)
def test_higher_derivatives_and_batches(name):
    with jax.enable_x64(True):
        linear, senders, receivers, weight = arguments(jnp.float64)
        aggregation = in_double(STREAMING, name)

        def everything(edges, senders, weight):
            def run(s, w):
                return loss(linear, s, receivers, w, aggregation, edges, 16, False)

            two = jnp.stack([senders, 2 * senders])
            second = {"hessian": jax.jacfwd(jax.grad(run))(senders, weight)}
            if name not in EVERY_TRANSFORM:
                return second
            return second | {
                "reverse over reverse": jax.jacrev(jax.grad(run, 0), 1)(senders, weight),
                "vmap of gradient": jax.vmap(jax.grad(run), (0, None))(two, weight),
                "gradient of vmap": jax.grad(lambda w: jax.vmap(run, (0, None))(two, w).sum())(weight),
                "checkpoint": jax.grad(jax.checkpoint(run))(senders, weight),
                "scan": jax.grad(lambda w: jax.lax.scan(lambda c, s: (c + run(s, w), None), 0.0, two)[0])(weight),
            }

        run = jax.jit(everything)
        reference, ours = (run(edges, senders, weight) for edges in layouts())
        for key, value in reference.items():
            assert_close(ours[key], value, f"{name}, {key}", rtol=1e-9)


@pytest.mark.parametrize("core_cache", [2**20, 0], ids=["in one order", "in two orders"])
def test_edge_map_agrees_and_differentiates_what_it_closes_over(core_cache, monkeypatch):
    monkeypatch.setattr(_blocks, "_CORE_CACHE", core_cache)
    with jax.enable_x64(True):
        _, senders, receivers, weight = arguments(jnp.float64)
        attention = jnp.arange(6.0).reshape(2, 3) / 7

        def everything(edges, attention, senders, receivers, weight):
            def run(attention, senders, weight):
                def function(x_j, x_i, edge_values):
                    return jnp.tanh(attention @ x_j) * x_i * edge_values

                values = edges.arrange(weight)
                logits = ops.edge_map(edges, function, x_j=senders, x_i=receivers, edge_values=values, block_size=16)
                return jnp.sum(jnp.sin(edges.restore(logits)))

            args = (attention, senders, weight)
            return jax.value_and_grad(run, (0, 1, 2))(*args), jax.jvp(run, args, args), jax.hessian(run, 2)(*args)

        run = jax.jit(everything)
        reference, ours = (run(edges, attention, senders, receivers, weight) for edges in layouts())
        assert_close(ours, reference, "edge_map")
        count = ops.edge_map(layouts()[1], lambda: jnp.ones(2))
        assert count.shape == (NUM_EDGES, 2)


@pytest.mark.parametrize("core_cache", [2**20, 0], ids=["in one order", "in two orders"])
def test_masked_edges_have_no_say_even_where_their_derivative_is_infinite(core_cache, monkeypatch):
    """A padding edge joins a node to itself: a distance of zero, whose square root has an infinite derivative."""
    monkeypatch.setattr(_blocks, "_CORE_CACHE", core_cache)

    def distance(x_i, x_j):
        return jnp.sqrt(jnp.sum((x_i - x_j) ** 2, keepdims=True))

    class Distance(MessagePassing):
        aggregation: aggr.AbstractAggregation = aggr.Sum()

        def message(self, x_i, x_j):
            return distance(x_i, x_j)

    ends, mask = np.array([[0, 1, 2, 2], [1, 0, 2, 2]]), np.array([True, True, False, False])
    edges = EdgeIndex.from_array(ends, num_senders=3, num_receivers=3, edge_mask=mask)
    for block_size in (1, 3, 4):
        for distances in (
            lambda x, b=block_size: Distance().propagate(edges, x=x, block_size=b),
            lambda x, b=block_size: ops.edge_map(edges, distance, x_i=x, x_j=x, block_size=b),
        ):
            gradient = jax.grad(lambda x, f=distances: f(x).sum())(jnp.eye(3))
            assert np.all(np.isfinite(gradient)) and np.all(np.asarray(gradient)[2] == 0)


def test_memory_is_bounded_by_the_block():
    num_nodes, num_edges, width = 500, 100_000, 32
    ends = np.random.default_rng(0).integers(0, num_nodes, (2, num_edges))
    edges = EdgeIndex.from_array(ends, num_senders=num_nodes, num_receivers=num_nodes)
    mlp = eqx.nn.MLP(2 * width, width, width, 1, key=jr.key(0))

    class Edge(MessagePassing):
        mlp: eqx.nn.MLP
        aggregation: aggr.AbstractAggregation

        def message(self, x_i, x_j):
            return self.mlp(jnp.concatenate([x_i, x_j - x_i]))

    def temporary_bytes(edges, aggregation, block_size):
        dynamic, static = eqx.partition(mlp, eqx.is_array)

        def run(dynamic, x, edges):
            layer = Edge(mlp=eqx.combine(dynamic, static), aggregation=aggregation)
            return jnp.sum(layer.propagate(edges, x=x, block_size=block_size) ** 2)

        step = jax.jit(jax.grad(run, (0, 1))).lower(dynamic, jnp.ones((num_nodes, width)), edges).compile()
        in_loops = (step.as_text() or "").partition("\nENTRY")[0]  # a node array copied in each block: quadratic time
        assert not re.search(rf"f32\[{num_nodes},{width}\]\S* copy\(", in_loops)
        return temporary_bytes_of(step)

    all_messages = num_edges * width * 4
    for aggregation in (aggr.Max(), aggr.Softmax()):
        small, large = (temporary_bytes(edges, aggregation, block) for block in (1024, 8192))
        assert small < large < all_messages
        assert small < 16 * 1024 * width * 4 + 10 * num_nodes * width * 4
    plain = EdgeList.from_array(ends, num_senders=num_nodes, num_receivers=num_nodes)
    assert temporary_bytes(plain, aggr.Max(), None) > 2 * all_messages


def test_empty_graph_and_no_receivers():
    for num_edges, num_receivers in ((0, 3), (0, 0)):
        edges = EdgeIndex.from_array(np.zeros((2, num_edges), int), num_senders=2, num_receivers=num_receivers)
        linear = arguments(jnp.float32)[0]
        for aggregation in (*STREAMING.values(), *WHOLE.values()):
            layer = Layer(linear=linear, aggregation=aggregation)
            args = jnp.ones((2, 3)), jnp.ones((num_receivers, 2)), edges, jnp.ones(num_edges)
            assert layer(*args).shape[0] == num_receivers
            assert np.all(np.isfinite(layer(*args)))


@pytest.mark.parametrize("name", ["sum", "max", "softmax"])
def test_narrow_types_are_kept(name):
    linear, *arrays = arguments(jnp.bfloat16)
    aggregation = STREAMING[name]
    reference = Layer(linear=linear, aggregation=aggregation)(arrays[0], arrays[1], layouts()[0], arrays[2])
    for block_size in (7, None):
        layer = Layer(linear=linear, aggregation=aggregation)

        def run(s, b=block_size, layer=layer):
            return layer(s, arrays[1], layouts()[1], arrays[2], b)

        out, pullback = jax.vjp(run, arrays[0])
        assert out.dtype == pullback(out)[0].dtype == jnp.bfloat16
        np.testing.assert_allclose(out.astype(float), reference.astype(float), rtol=0.05, atol=0.05)


class Affine(MessagePassing):
    aggregation: aggr.AbstractAggregation = aggr.Max()

    def message(self, x_j, scale_i, shift_i, weight):
        return scale_i * x_j + shift_i * weight

    def __call__(self, x, scale, shift, weight, edges):
        return self.propagate(edges, x=x, scale=scale, shift=shift, weight=weight)


def test_a_maximum_is_found_again_in_the_backward_pass():
    """XLA fuses the multiplication and the addition of a message in one loop and not in another."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(4)
        n, e, f = 44, 345, 7
        ends = rng.integers(0, n, (2, e)).astype(np.int32)
        x, scale, shift = jnp.asarray(rng.normal(size=(3, n, f)))
        weight = jnp.asarray(rng.normal(size=(e, 1)))
        messages = np.asarray(scale[ends[1]] * x[ends[0]] + shift[ends[1]] * weight)
        want = np.zeros((n, f))
        for i in np.unique(ends[1]):
            into = np.flatnonzero(ends[1] == i)
            np.add.at(want, (ends[0][into[messages[into].argmax(0)]], np.arange(f)), scale[i])
        gradient = jax.jit(jax.grad(lambda x, edges: jnp.sum(Affine()(x, scale, shift, weight, edges))))
        for edges in (jnp.asarray(ends), EdgeIndex.from_array(ends, num_senders=n, num_receivers=n)):
            np.testing.assert_allclose(gradient(x, edges), want, atol=1e-9)


def test_a_zero_factor_is_found_again_in_every_pass():
    """Messages that are zero to rounding: zero where XLA rounds the product before it adds, not where it does not."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(5)
        n, f = 40, 7
        ends = np.stack([rng.integers(0, n, 3 * n), np.tile(np.arange(n), 3)]).astype(np.int32)
        x, scale = rng.normal(size=(2, n, f))
        shift = np.stack([-scale[:, 0] * x[ends[0, :n], 0], *rng.normal(size=(f - 1, n))], axis=1)
        weight = np.concatenate([np.ones(n), rng.normal(size=2 * n)])[:, None]
        messages = scale[ends[1]] * x[ends[0]] + shift[ends[1]] * weight
        others = np.stack([np.roll(messages.reshape(3, n, f), k, axis=0) for k in (1, 2)]).prod(axis=0)
        assert (messages[:n, 0] == 0).all()
        want = np.zeros((n, f))
        np.add.at(want, ends[0], scale[ends[1]] * others.reshape(-1, f))
        for edges in (jnp.asarray(ends), EdgeIndex.from_array(ends, num_senders=n, num_receivers=n)):

            def total(x, scale, shift, weight, edges=edges):
                return jnp.sum(Affine(aggr.Mul())(x, scale, shift, weight, edges))

            gradient = jax.jit(jax.grad(total))(x, scale, shift, weight)
            np.testing.assert_allclose(gradient, want, atol=1e-9)


def test_one_trace_per_shape():
    edges = layouts()[1]
    linear, *arrays = arguments(jnp.float32)

    @jax.jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def run(edges, senders, receivers, weight):
        return Layer(linear=linear, aggregation=aggr.Max())(senders, receivers, edges, weight)

    for scale in (1, 2, 3):
        run(edges.reverse().reverse(), *(scale * a for a in arrays))


def test_what_is_refused():
    linear, senders, receivers, weight = arguments(jnp.float32)
    layer, edges = Layer(linear=linear, aggregation=aggr.Sum()), layouts()[1]
    with pytest.raises(ValueError, match=r"`propagate` lacks \['weight'\]: `Layer.message` takes"):
        layer.propagate(edges, x=(senders, receivers))
    with pytest.raises(ValueError, match=r"`propagate` got \['bias'\], which `Layer.message` does not take"):
        layer.propagate(edges, x=(senders, receivers), weight=weight, bias=1.0)
    with pytest.raises(ValueError, match=r"`weight` must have a row for each of the 40 edges; got shape \(\)"):
        layer.propagate(edges, x=(senders, receivers), weight=jnp.asarray(1.0))
    with pytest.raises(ValueError, match="`x` must have a row for each of the 9 receivers"):
        layer.propagate(edges, x=(senders, senders), weight=weight)

    class PerEdge(MessagePassing):
        aggregation: aggr.AbstractAggregation = aggr.Sum()

        def message(self, weight):
            return weight[None]

    with pytest.raises(ValueError, match="`size` is needed: nothing else tells the number of senders"):
        PerEdge().propagate(jnp.asarray(ENDS), weight=weight)
    total = PerEdge().propagate(jnp.asarray(ENDS), weight=weight, size=(NUM_SENDERS, NUM_RECEIVERS))
    np.testing.assert_allclose(total[:, 0], ops.segment_sum(weight, jnp.asarray(ENDS[1]), NUM_RECEIVERS), rtol=1e-6)


def temporary_bytes_of(compiled):
    """Bytes of temporary memory that a program was compiled to take."""
    return compiled.memory_analysis().temp_size_in_bytes
