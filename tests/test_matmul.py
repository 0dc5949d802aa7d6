"""The linear route: equal to the plain route under every transform, and in the program what it claims to be."""

import functools as ft
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqx_graph import EdgeIndex, EdgeList, _kernels, ops


NUM_SENDERS, NUM_RECEIVERS, NUM_EDGES = 7, 9, 40
RNG = np.random.default_rng(0)
ENDS = np.stack([RNG.integers(0, NUM_SENDERS, NUM_EDGES), RNG.integers(0, NUM_RECEIVERS - 1, NUM_EDGES)])
MASK = RNG.random(NUM_EDGES) < 0.8
W, X = RNG.normal(size=(NUM_EDGES, 2)), RNG.normal(size=(NUM_SENDERS, 2, 3))


def layouts(mask=None):
    sizes: dict[str, Any] = {"num_senders": NUM_SENDERS, "num_receivers": NUM_RECEIVERS}
    plain = EdgeList.from_array(ENDS, edge_mask=mask, **sizes)
    return plain, EdgeIndex.from_array(ENDS, edge_mask=mask, **sizes)


def product(edges):
    return lambda w, x: ops.matmul(edges, edges.arrange(w), x)


def dots(edges):
    return lambda w, x: edges.restore(ops.edge_dot(edges, x, jnp.sin(ops.matmul(edges, edges.arrange(w), x))))


def transforms(function, w, x):
    """Values and every derivative and batching of `function(w, x)`, in one program."""

    def loss(w, x):
        return jnp.sum(jnp.sin(function(w, x)))

    both, out = jnp.stack([x, 2 * x]), function(w, x)
    return {
        "value": out,
        "gradient": jax.grad(loss, (0, 1))(w, x),
        "tangent": jax.jvp(function, (w, x), (jnp.cos(w), x + 1)),
        "hessian": jax.hessian(loss, (0, 1))(w, x),
        "reverse over reverse": jax.jacrev(jax.grad(loss, 1), 0)(w, x),
        "vmap x": jax.vmap(lambda x: function(w, x), in_axes=1, out_axes=1)(jnp.stack([x, 2 * x], 1)),
        "vmap w": jax.vmap(lambda w: function(w, x), in_axes=1)(jnp.stack([w, 2 * w], 1)),
        "vmap gradient": jax.vmap(jax.grad(loss, (0, 1)))(jnp.stack([w, 3 * w]), both),
        "pullback at many points": jax.vmap(lambda x: jax.vjp(function, w, x)[1](jnp.ones_like(out)))(both),
        "checkpoint": jax.grad(jax.checkpoint(loss), 1)(w, x),
        "scan": jax.lax.scan(lambda c, x: (c + loss(w, x), None), 0.0, both)[0],
    }


@pytest.mark.parametrize("make", [product, dots])
@pytest.mark.parametrize(("kernel", "group"), [("auto", 8), ("auto", 2), ("segment", 8)])
def test_every_transform_agrees_with_the_plain_route(make, kernel, group, monkeypatch):
    """With groups of 2, rows of this graph have enough edges to be summed in groups."""
    monkeypatch.setattr(_kernels, "_GROUP", group)
    with jax.enable_x64(True):
        plain, compressed = layouts()
        w, x = jnp.asarray(W), jnp.asarray(X)
        run = jax.jit(lambda edges, w, x: transforms(make(edges), w, x))
        ours, reference = run(compressed.with_kernel(kernel), w, x), run(plain, w, x)
        for name, value in reference.items():
            for a, b in zip(jax.tree.leaves(ours[name]), jax.tree.leaves(value), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13, err_msg=name)


def test_dense_reference_masks_and_ones():
    w, x = jnp.asarray(W[:, 0], jnp.float32), jnp.asarray(X[:, 0], jnp.float32)
    for mask in (None, MASK):
        count = np.ones(NUM_EDGES) if mask is None else mask
        for weight in (None, w):
            dense = np.zeros((NUM_RECEIVERS, NUM_SENDERS))
            np.add.at(dense, (ENDS[1], ENDS[0]), count * (1 if weight is None else np.asarray(weight)))
            for edges in layouts(mask):
                out = ops.matmul(edges, None if weight is None else edges.arrange(weight), x)
                np.testing.assert_allclose(out, dense @ np.asarray(x), rtol=2e-5, atol=1e-6)
                assert out.dtype == x.dtype
    edges = layouts(MASK)[1]
    for edges in layouts(MASK):
        assert edges.edge_mask is not None
        wild = jnp.where(edges.edge_mask, 1.0, jnp.nan)
        gradient = jax.grad(lambda w, edges=edges: ops.matmul(edges, w, x).sum())(wild)
        assert np.all(np.isfinite(gradient)) and np.all(np.asarray(gradient)[~np.asarray(edges.edge_mask)] == 0)


def test_narrow_types_add_in_float32():
    ends = np.stack([np.arange(4096) % 4, np.zeros(4096, int)])
    edges = EdgeIndex.from_array(ends, num_senders=4, num_receivers=2)
    plain = EdgeList.from_array(ends, num_senders=4, num_receivers=2)
    for e in (edges, edges.with_kernel("segment"), plain):
        out = ops.matmul(e, None, jnp.ones((4, 2), jnp.bfloat16))
        assert out.dtype == jnp.bfloat16
        np.testing.assert_array_equal(out.astype(jnp.float32), [[4096, 4096], [0, 0]])
        weight, x = jnp.ones((4096, 2), jnp.float16), jnp.ones((4, 2, 300), jnp.float16) / 2
        out, pullback = jax.vjp(lambda w, x, e=e: ops.matmul(e, w, x), weight, x)
        of_weight, of_x = pullback(jnp.ones_like(out))
        assert (out.dtype, of_weight.dtype, of_x.dtype) == (jnp.float16,) * 3
        assert np.all(out[0] == 2048) and np.all(of_weight == 150) and np.all(of_x == 1024)


def test_empty_graphs():
    for num_senders, num_receivers, num_edges in ((3, 2, 0), (0, 2, 0), (3, 0, 0)):
        edges = EdgeIndex.from_array(
            np.zeros((2, num_edges), int), num_senders=num_senders, num_receivers=num_receivers
        )
        for weight in (None, jnp.ones(num_edges)):
            out, pullback = jax.vjp(ft.partial(ops.matmul, edges, weight), jnp.ones((num_senders, 4)))
            assert out.shape == (num_receivers, 4) and pullback(out)[0].shape == (num_senders, 4)


def test_a_batch_of_graphs():
    edges = layouts()[1]
    other = EdgeIndex.from_array(ENDS[:, ::-1].copy(), num_senders=NUM_SENDERS, num_receivers=NUM_RECEIVERS)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), edges, other)
    x = jnp.asarray(X[:, 0], jnp.float32)
    w = jnp.arange(NUM_EDGES, dtype=jnp.float32)

    def run(e):
        return jax.value_and_grad(lambda x, w: jnp.sum(ops.matmul(e, e.arrange(w), x) ** 2), (0, 1))(x, w)

    batched = jax.jit(jax.vmap(run))(both)
    for k, one in enumerate((edges, other)):
        for a, b in zip(jax.tree.leaves(batched), jax.tree.leaves(run(one)), strict=True):
            np.testing.assert_allclose(a[k], b, rtol=1e-5)


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for sub in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")
        ):
            inner = getattr(sub, "jaxpr", sub)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def names(function, *args):
    return [eqn.primitive.name for eqn in equations(jax.make_jaxpr(function)(*args).jaxpr)]


def test_no_work_for_weights_that_nobody_differentiates():
    edges = layouts()[1]
    w, x = jnp.asarray(W[:, 0], jnp.float32), jnp.asarray(X[:, 0], jnp.float32)

    def loss(x, w):
        return jnp.sum(ops.matmul(edges, w, x) ** 2)

    of_x, of_both = names(jax.grad(loss), x, w), names(jax.grad(loss, (0, 1)), x, w)
    assert of_x.count("eqx_graph_spmm") == 2 and "eqx_graph_sddmm" not in of_x
    assert of_both.count("eqx_graph_spmm") == 2 and of_both.count("eqx_graph_sddmm") == 1


def test_both_derivatives_of_a_product_come_one_after_the_other():
    """Side by side they would share the threads of a CPU: the second one has the result of the first as an operand."""
    edges = layouts()[1]
    w, x = jnp.asarray(W, jnp.float32), jnp.asarray(X, jnp.float32)
    for function, first in ((ops.matmul, "eqx_graph_sddmm"), (lambda e, a, x: ops.edge_dot(e, x, a), "eqx_graph_spmm")):
        a = w if function is ops.matmul else jnp.ones((NUM_RECEIVERS, 2, 3))
        out = jax.eval_shape(function, edges, a, x)
        program = jax.make_jaxpr(lambda a, x, ct: jax.vjp(ft.partial(function, edges), a, x)[1](ct))  # noqa: B023
        *_, one, two = [
            eqn
            for eqn in equations(program(a, x, jnp.ones(out.shape)).jaxpr)
            if eqn.primitive.name in ("eqx_graph_spmm", "eqx_graph_sddmm")
        ]
        assert (one.primitive.name, two.primitive.name) == (first, "eqx_graph_spmm")
        assert one.outvars[0] in two.invars


def test_vmap_over_features_is_one_wider_product():
    edges = layouts()[1]
    xs = jnp.ones((5, NUM_SENDERS, 3))
    found = names(jax.vmap(lambda x: ops.matmul(edges, None, x)), xs)
    assert found.count("eqx_graph_spmm") == 1 and "scan" not in found and "while" not in found


@pytest.mark.parametrize("group", [8, 4, 1])
def test_blocks_that_overlap(group, monkeypatch):
    """600 edges in blocks of 256: every kernel, and attention's own loop, against the plain route."""
    monkeypatch.setattr(_kernels, "_BLOCK", 1)
    monkeypatch.setattr(_kernels, "_GROUP", group)
    rng = np.random.default_rng(1)
    num_edges, sizes = 600, dict[str, Any](num_senders=50, num_receivers=50)
    ends, mask = rng.integers(0, 50, (2, num_edges)), rng.random(num_edges) < 0.9
    x, w = rng.normal(size=(50, 3, 4)), rng.normal(size=(num_edges, 3))
    edges = EdgeIndex.from_array(ends, edge_mask=mask, **sizes)
    plain = EdgeList.from_array(ends, edge_mask=mask, **sizes)

    @jax.jit
    def run(edges, w, x):
        def loss(w, x):
            first = ops.matmul(edges, edges.arrange(w), x)
            dots = ops.edge_dot(edges, first, jnp.sin(x))
            return jnp.sum(ops.attention(edges, dots, jnp.sin(first)) ** 2), edges.restore(dots)

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(w, x)

    with jax.enable_x64(True):
        expected = run(plain, w, x)
        for kernel in ("auto", "csr", "segment"):
            ours = run(edges.with_kernel(kernel), w, x)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), ours, expected)


def test_groups_of_edges():
    """Rows of 0, 1, 7, 8, 9 and many edges; what fills up a group is an edge of the same row."""
    degrees = np.array([0, 1, 7, 8, 9, 300, 0])
    receivers = np.repeat(np.arange(7), degrees)
    senders = np.where(receivers == 4, 2, np.arange(len(receivers)) % 2)
    edges = EdgeIndex.from_array(np.stack([senders, receivers]), num_senders=3, num_receivers=7)
    weight = RNG.normal(size=(len(receivers), 2)).astype(np.float32)
    x = jnp.ones((3, 2, 5)).at[2].set(jnp.nan)
    out = jax.jit(ops.matmul)(edges, jnp.asarray(weight), x)
    totals = np.stack([weight[receivers == i].sum(0) for i in range(7)])
    for i in (0, 1, 2, 3, 5, 6):
        np.testing.assert_allclose(out[i], np.repeat(totals[i][:, None], 5, axis=1), rtol=1e-5, atol=1e-5)
    assert np.all(np.isnan(out[4]))


def test_a_jaxlib_without_the_kernel_where_we_know_it_computes_the_same(monkeypatch):
    edges, x = layouts()[1], jnp.asarray(X[:, 0], jnp.float32)
    ours = ops.matmul(edges, None, x)
    monkeypatch.setattr(_kernels, "_register_cpu_product", lambda: False)
    jax.clear_caches()
    program = jax.jit(lambda edges, x: ops.matmul(edges, None, x)).lower(edges, x)
    assert "eqx_graph_csr_product" not in program.as_text() and "cpu_csr_sparse_dense_ffi" in program.as_text()
    np.testing.assert_array_equal(program.compile()(edges, x), ours)
    monkeypatch.undo()
    jax.clear_caches()
    assert "eqx_graph_csr_product" in jax.jit(lambda edges, x: ops.matmul(edges, None, x)).lower(edges, x).as_text()


def test_a_product_does_not_import_scipy():
    """0.1 s and 18 MB of every process that trains on a graph."""
    program = """
import sys, jax, jax.numpy as jnp
from eqx_graph import EdgeIndex
from eqx_graph.nn import SAGEConv
edges = EdgeIndex.from_array(jnp.array([[0, 1, 2], [1, 2, 0]]), num_senders=3, num_receivers=3)
conv = SAGEConv(2, 2, key=jax.random.key(0))
assert jnp.isfinite(conv(jnp.ones((3, 2)), edges)).all()
assert "jax.experimental.sparse" not in sys.modules and "scipy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for_other_backends(platform):
    edges = layouts()[1]

    def loss(edges, w, x):
        return jnp.sum(jnp.sin(product(edges)(w, x))) + jnp.sum(edges.send(x)) + jnp.sum(jnp.sin(dots(edges)(w, x)))

    w, x = jnp.asarray(W, jnp.float32), jnp.asarray(X, jnp.float32)
    # cuSPARSE's own lowering needs a CUDA build of jaxlib; the segment kernel lowers anywhere.
    program = jax.jit(jax.grad(loss, (1, 2))).trace(edges.with_kernel("segment"), w, x)
    assert program.lower(lowering_platforms=(platform,)).as_text()


def test_no_array_of_all_messages():
    num_edges, width = 200_000, 32
    ends = np.random.default_rng(0).integers(0, 1000, (2, num_edges))
    edges = EdgeIndex.from_array(ends, num_senders=1000, num_receivers=1000)
    w, x = jnp.ones(num_edges), jnp.ones((1000, width))

    def loss(edges, w, x):
        return jnp.sum(ops.matmul(edges, w, x) ** 2)

    step = jax.jit(jax.grad(loss, (1, 2))).lower(edges, w, x).compile()
    messages = num_edges * width * 4
    assert temporary_bytes_of(step) < messages / 2
    assert f"[{num_edges},{width}]" not in (step.as_text() or "")


def test_what_is_refused():
    edges = layouts()[1]
    with pytest.raises(ValueError, match="`x` must have a row for each of the 7 senders; got shape"):
        ops.matmul(edges, None, jnp.ones((9, 2)))
    with pytest.raises(ValueError, match=r"an entry for each of the 40 edges, in layout order; got shape \(3,\)"):
        ops.matmul(edges, jnp.ones(3), jnp.ones((7, 2)))
    with pytest.raises(ValueError, match=r"`x` must have shape \(num_senders, heads, ...\)"):
        ops.matmul(edges, jnp.ones((40, 2)), jnp.ones((7, 3)))


def temporary_bytes_of(compiled):
    """Bytes of temporary memory that a program was compiled to take."""
    return compiled.memory_analysis().temp_size_in_bytes


def test_products_run_with_jit_disabled():
    """As one debugs: their evaluation outside a program is a program of its own."""
    edges = EdgeIndex.from_array(np.array([[0, 1, 2], [1, 1, 0]]), num_senders=3, num_receivers=3)
    x = jnp.arange(6.0).reshape(3, 2)

    def square(x):
        return jnp.sum(ops.matmul(edges, None, x) ** 2) + jnp.sum(edges.restore(edges.send(x)))

    want = jax.grad(square)(x)
    with jax.disable_jit():
        np.testing.assert_allclose(jax.grad(square)(x), want)


def test_what_is_not_finite_stays_in_its_head_and_its_batch_member():
    edges = EdgeIndex.from_array(np.asarray([[0, 1, 2], [1, 2, 0]]), num_senders=3, num_receivers=3)
    spoiled = jnp.ones((3, 2, 4)).at[:, 0].set(jnp.nan)
    dots = ops.edge_dot(edges, spoiled, jnp.ones((3, 2, 4)))
    assert jnp.isnan(dots[:, 0]).all()
    np.testing.assert_array_equal(dots[:, 1], 4)
    members = jnp.ones((2, 3, 4)).at[0].set(jnp.inf)
    slopes = jax.vmap(lambda x: jax.grad(lambda w: ops.matmul(edges, w, x).sum())(jnp.ones(3)))(members)
    np.testing.assert_array_equal(slopes[1], 4)


def test_batches_over_graphs_without_edges_or_nodes():
    edges = EdgeIndex.from_array(np.zeros((2, 0), int), num_senders=3, num_receivers=3)
    assert jax.vmap(lambda w: ops.matmul(edges, w, jnp.ones((3, 2))))(jnp.ones((4, 0))).shape == (4, 3, 2)
    nothing = EdgeIndex.from_array(np.zeros((2, 0), int), num_senders=0, num_receivers=0)
    assert jax.vmap(lambda x: ops.edge_dot(nothing, x, x))(jnp.ones((4, 0, 2))).shape == (4, 0)


@pytest.mark.parametrize("check", [True, False])
def test_gradients_through_a_shard_map(check):
    """An operand that is the same on all devices gets the sum of their gradients."""
    edges = EdgeIndex.from_array(np.asarray([[0, 1, 2, 0], [1, 2, 0, 2]]), num_senders=3, num_receivers=3)
    weight, x = jnp.asarray([1.0, 2.0, 3.0, 0.5]), jnp.arange(12.0).reshape(2, 3, 2)
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    none, one = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("d")

    def on_one(edges, weight, x):
        logits = jnp.stack([weight, jnp.cos(weight)], axis=1)
        values = ops.attention(edges, logits, jnp.stack([x, jnp.sin(x)], axis=1))
        return jnp.sin(ops.matmul(edges, weight, x)).sum() + jnp.square(values).sum()

    def on_all(edges, weight, x):
        return jax.lax.psum(on_one(edges, weight, x[0]), "d")

    shared = jax.shard_map(on_all, mesh=mesh, in_specs=(none, none, one), out_specs=none, check_vma=check)
    got = jax.jit(jax.grad(lambda w: shared(edges, w, x)))(weight)
    want = jax.grad(lambda w: on_one(edges, w, x[0]) + on_one(edges, w, x[1]))(weight)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
