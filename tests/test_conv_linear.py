"""Layers that are linear in their neighbours: dense formulas, norms computed once, degrees of zero, initial draws."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqx_graph.nn as egnn
from eqx_graph import EdgeIndex
from eqx_graph.nn import aggr


NUM_NODES = 7
# 2 -> 2 is a self-loop, 0 -> 1 is there twice, node 6 is isolated.
EDGES = np.array([[0, 0, 1, 2, 2, 4, 0, 1, 5, 3], [1, 1, 0, 2, 3, 1, 2, 3, 0, 5]], dtype=np.int32)
WEIGHTS = np.linspace(0.3, 1.5, EDGES.shape[1])
RNG = np.random.default_rng(0)
X = RNG.normal(size=(NUM_NODES, 6))
TOLERANCE = 1e-12  # float64


def _dense(weights=WEIGHTS, fill: float | None = None) -> np.ndarray:
    """The adjacency A[i, j] of edges j -> i; with `fill`, nodes without a loop get one, others keep their last."""
    a = np.zeros((NUM_NODES, NUM_NODES))
    for (j, i), w in zip(EDGES.T, weights, strict=True):
        a[i, j] = w if fill is not None and i == j else a[i, j] + w
    if fill is not None:
        loops = {int(i) for j, i in EDGES.T if i == j}
        for i in range(NUM_NODES):
            a[i, i] = a[i, i] if i in loops else fill
    return a


def _normalised(a: np.ndarray) -> np.ndarray:
    degree = a.sum(1)
    scale = np.where(degree > 0, np.where(degree > 0, degree, 1) ** -0.5, 0)
    return scale[:, None] * a * scale[None]


def _w(linear) -> np.ndarray:
    return np.asarray(linear.weight).T


def _polynomial(layer, matrix, x):
    return sum(np.linalg.matrix_power(matrix, k) @ x @ _w(lin) for k, lin in enumerate(layer.lins))


def _chebyshev(layer, x):
    a = _dense() * (1 - np.eye(NUM_NODES))
    degree = a.sum(0)  # edges that leave a node
    scale = np.where(degree > 0, np.where(degree > 0, degree, 1) ** -0.5, 0)
    laplacian = np.eye(NUM_NODES) - scale[:, None] * a * scale[None]
    t = [np.eye(NUM_NODES), 2 * laplacian / 1.7 - np.eye(NUM_NODES)]
    for _ in range(2, len(layer.lins)):
        t.append(2 * t[1] @ t[-1] - t[-2])
    return sum(t[k] @ x @ _w(lin) for k, lin in enumerate(layer.lins))


def _ssg(layer, x):
    s = _normalised(_dense(fill=1.0))
    hops = sum(np.linalg.matrix_power(s, k) @ x for k in (1, 2, 3))
    return (0.2 * x + 0.8 / 3 * hops) @ _w(layer.lin)


FORMULAS = {
    "GCN": (lambda o, k: egnn.GCNConv(6, o, key=k), lambda m, x: _normalised(_dense(fill=1.0)) @ x @ _w(m.lin)),
    "GCN-improved": (
        lambda o, k: egnn.GCNConv(6, o, improved=True, key=k),
        lambda m, x: _normalised(_dense(fill=2.0)) @ x @ _w(m.lin),
    ),
    "SG": (
        lambda o, k: egnn.SGConv(6, o, K=2, bias=False, key=k),
        lambda m, x: np.linalg.matrix_power(_normalised(_dense(fill=1.0)), 2) @ x @ _w(m.lin),
    ),
    "SSG": (lambda o, k: egnn.SSGConv(6, o, 0.2, K=3, bias=False, key=k), _ssg),
    "TAG": (lambda o, k: egnn.TAGConv(6, o, K=3, key=k), lambda m, x: _polynomial(m, _normalised(_dense()), x)),
    "Cheb": (lambda o, k: egnn.ChebConv(6, o, K=4, key=k), _chebyshev),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_dense_formula_on_either_side_of_the_propagation(name, getkey):
    make, formula = FORMULAS[name]
    with jax.enable_x64(True):
        for out in (3, 9):  # fewer and more features than the input: the linear map comes first, or last
            layer = make(out, getkey())
            extra = {"lambda_max": 1.7} if name == "Cheb" else {}
            got = jax.jit(lambda x, w, layer=layer, extra=extra: layer(x, EDGES, w, **extra))(X, WEIGHTS)
            np.testing.assert_allclose(got, formula(layer, X), rtol=TOLERANCE, atol=TOLERANCE)


def test_improved_means_loops_of_two_without_edge_weights_too():
    with jax.enable_x64(True):
        adjacency = egnn.gcn_norm(EDGES, num_nodes=NUM_NODES, improved=True)
        want = _normalised(_dense(np.ones(EDGES.shape[1]), fill=2.0)) @ X
        np.testing.assert_allclose(adjacency @ jnp.asarray(X), want, rtol=TOLERANCE)


def test_appnp_is_its_recursion():
    with jax.enable_x64(True):
        s, z = _normalised(_dense(fill=1.0)), X
        for _ in range(3):
            z = 0.9 * s @ z + 0.1 * X
        got = egnn.APPNP(3, 0.1)(jnp.asarray(X), EDGES, jnp.asarray(WEIGHTS))
        np.testing.assert_allclose(got, z, rtol=TOLERANCE)


def _primitives(jaxpr) -> set[str]:
    found = set()
    for eqn in jaxpr.eqns:
        found.add(eqn.primitive.name)
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            if hasattr(inner, "jaxpr"):
                inner = inner.jaxpr
            if hasattr(inner, "eqns"):
                found |= _primitives(inner)
    return found


def test_a_laplacian_computed_once_gives_the_same(getkey):
    x, w = jr.normal(getkey(), (NUM_NODES, 5)), jr.uniform(getkey(), (len(EDGES[0]),))
    for normalization in ("sym", "rw", None):
        conv = egnn.ChebConv(5, 3, 3, normalization=normalization, key=getkey())
        once = egnn.cheb_norm(EDGES, w, NUM_NODES, normalization)
        np.testing.assert_allclose(conv(x, once), conv(x, EDGES, w), rtol=1e-5, atol=1e-6)


def test_norm_computed_once_leaves_no_degree_in_the_step(getkey):
    conv = egnn.GCNConv(6, 3, key=getkey())
    x = jnp.asarray(X, jnp.float32)
    edges = EdgeIndex.from_array(EDGES, num_senders=NUM_NODES, num_receivers=NUM_NODES)
    adjacency = egnn.gcn_norm(edges)
    step = eqx.filter_grad(lambda conv, x, graph: jnp.sum(conv(x, graph) ** 2))
    once = _primitives(jax.make_jaxpr(lambda x, graph: step(conv, x, graph))(x, adjacency).jaxpr)
    each_time = _primitives(jax.make_jaxpr(lambda x, graph: step(conv, x, graph))(x, edges).jaxpr)
    degrees = {"rsqrt", "sum_rows", "scatter", "scatter-add", "scatter-max"}
    assert degrees & each_time and not degrees & once, (each_time, once)
    np.testing.assert_allclose(conv(x, adjacency), conv(x, edges), rtol=1e-6)
    for layer in (egnn.SGConv(6, 3, key=getkey()), egnn.APPNP(2, 0.1), egnn.LGConv(), egnn.TAGConv(6, 3, key=getkey())):
        assert layer(x, adjacency).shape[0] == NUM_NODES


@pytest.mark.parametrize("weights", [[0.0, 1.0], [-1.0, 1.0], [0.0, 0.0]])
def test_degrees_of_zero_and_below_give_zero_and_finite_gradients(weights):
    edge_index = np.array([[0, 1], [1, 2]], np.int32)

    def loss(w, x):
        return jnp.sum((egnn.gcn_norm(edge_index, w, 3, add_self_loops=False) @ x) ** 2)

    w, x = jnp.array(weights), jnp.ones((3, 2))
    grads = jax.grad(loss, argnums=(0, 1))(w, x)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in grads)
    out = egnn.gcn_norm(edge_index, w, 3, add_self_loops=False) @ x
    assert bool(jnp.all(out == 0.0))  # every edge of these graphs touches a node without degree


def test_counts_above_256_survive_bfloat16():
    star = np.stack([np.arange(1, 1001), np.zeros(1000)]).astype(np.int32)
    adjacency = egnn.gcn_norm(star, num_nodes=1001, add_self_loops=True, dtype=jnp.bfloat16)
    assert adjacency.loop_weight is not None and adjacency.loop_weight.dtype == jnp.bfloat16
    np.testing.assert_allclose(float(adjacency.loop_weight[0]), 1 / 1001, rtol=2**-8)


def test_the_smaller_side_is_propagated(getkey):
    def widths(layer, x):
        eqns = jax.make_jaxpr(layer)(x, EDGES).jaxpr
        return {a.shape[1] for a in _shapes(eqns) if len(a.shape) == 2 and a.shape[0] == EDGES.shape[1]}

    def make(i, o):
        return egnn.SAGEConv(i, o, key=getkey()), egnn.GraphConv(i, o, key=getkey()), egnn.GCNConv(i, o, key=getkey())

    for i, o in ((32, 4), (4, 32)):
        for layer in make(i, o):
            assert 32 not in widths(layer, jnp.ones((NUM_NODES, i))), type(layer)


def _shapes(jaxpr):
    for eqn in jaxpr.eqns:
        yield from (v.aval for v in eqn.outvars)
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            inner = inner.jaxpr if hasattr(inner, "jaxpr") else inner
            if hasattr(inner, "eqns"):
                yield from _shapes(inner)


@pytest.mark.parametrize("moving", ["weight", "x", "edge_weight", "all"])
def test_square_layers_are_one_function_however_they_are_differentiated(moving, getkey):
    """The sum over edges is before the linear map or behind it, as the gradient that is asked for needs it."""
    with jax.enable_x64(True):
        x, edge_weight = jnp.asarray(X), jnp.asarray(WEIGHTS)
        conv = egnn.GraphConv(6, 6, bias=False, key=getkey())
        edges = EdgeIndex.from_array(EDGES, num_senders=NUM_NODES, num_receivers=NUM_NODES)
        given = {"weight": conv.lin_rel.weight, "x": x, "edge_weight": edge_weight}
        moved = given if moving == "all" else {moving: given[moving]}

        def ours(moved):
            args = given | moved
            layer = eqx.tree_at(lambda c: c.lin_rel.weight, conv, args["weight"])
            return jnp.sum(jnp.sin(layer(args["x"], edges, args["edge_weight"])))

        def dense(moved):
            args = given | moved
            matrix = jnp.zeros((NUM_NODES, NUM_NODES)).at[EDGES[1], EDGES[0]].add(args["edge_weight"])
            out = matrix @ args["x"] @ args["weight"].T + args["x"] @ conv.lin_root.weight.T
            return jnp.sum(jnp.sin(out))

        for transform in (lambda f: f, jax.grad, jax.hessian, lambda f: jax.jacrev(jax.jacrev(f))):
            for a, b in zip(*(jax.tree.leaves(jax.jit(transform(f))(moved)) for f in (ours, dense)), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-11, atol=TOLERANCE)


def test_unit_length_has_a_finite_gradient_at_zero(getkey):
    conv = egnn.SAGEConv(2, 2, normalize=True, bias=False, key=getkey())
    x = jnp.zeros((NUM_NODES, 2)).at[0].set(1.0)
    grads = eqx.filter_grad(lambda c: jnp.sum(c(x, EDGES)))(conv)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(grads))


def test_several_aggregations_are_their_columns(getkey):
    x = jnp.asarray(X, jnp.float32)
    conv = egnn.SimpleConv(["mean", aggr.Max(), "std"])
    edges = EdgeIndex.from_array(EDGES, num_senders=NUM_NODES, num_receivers=NUM_NODES)
    parts = [egnn.SimpleConv(a)(x, edges) for a in ("mean", "max", "std")]
    np.testing.assert_allclose(conv(x, edges), jnp.concatenate(parts, axis=1), rtol=1e-6)
    assert egnn.SAGEConv(6, 4, ["mean", "max"], key=getkey()).lin_l.in_features == 12


def _std(bound: float) -> float:
    return bound / 3**0.5


def _linear(linear: eqx.nn.Linear | None) -> eqx.nn.Linear:
    assert linear is not None
    return linear


def test_initial_weights_are_drawn_as_in_pyg(getkey):
    drawn = {
        "GCNConv": (egnn.GCNConv(300, 200, key=getkey()).lin.weight, _std((6 / 500) ** 0.5)),
        "ChebConv": (egnn.ChebConv(300, 200, 2, key=getkey()).lins[1].weight, _std((6 / 500) ** 0.5)),
        "GATConv": (_linear(egnn.GATConv(300, 50, 4, key=getkey()).lin).weight, _std((6 / 500) ** 0.5)),
        "GATConv.att": (egnn.GATConv(1, 5000, 4, key=getkey()).att_src, _std((6 / 5004) ** 0.5)),
        "GATv2Conv": (_linear(egnn.GATv2Conv(300, 50, 4, key=getkey()).lin_r).weight, _std((6 / 500) ** 0.5)),
        "SAGEConv": (egnn.SAGEConv(300, 200, key=getkey()).lin_l.weight, _std(300**-0.5)),
        "TransformerConv": (egnn.TransformerConv(300, 50, 4, key=getkey()).lin_key.weight, _std(300**-0.5)),
        "CGConv": (egnn.CGConv(150, key=getkey()).lin_f.weight, _std(300**-0.5)),
    }
    for name, (weight, std) in drawn.items():
        # The standard error of a standard deviation from n uniform draws is about 0.45 std / sqrt(n), n >= 20,000.
        np.testing.assert_allclose(float(jnp.std(weight)), std, rtol=0.02, err_msg=name)
    for bias in (egnn.GCNConv(3, 4, key=getkey()).bias, egnn.GATConv(3, 4, key=getkey()).bias):
        assert bias is not None and bool(jnp.all(bias == 0))


def test_dropout_of_edge_weights_needs_a_key_and_changes_with_it(getkey):
    conv, x = egnn.APPNP(2, 0.1, dropout=0.5), jnp.asarray(X, jnp.float32)
    with pytest.raises(ValueError, match="`key` must be given while dropout is active"):
        conv(x, EDGES)
    one, two = (conv(x, EDGES, key=jr.key(i)) for i in range(2))
    assert not bool(jnp.allclose(one, two))
    np.testing.assert_array_equal(eqx.nn.inference_mode(conv)(x, EDGES), egnn.APPNP(2, 0.1)(x, EDGES))


def _bad(key):
    x = jnp.ones((NUM_NODES, 6))
    pair = (x, jnp.ones((3, 6)))
    edges = EdgeIndex.from_array(EDGES, num_senders=NUM_NODES, num_receivers=NUM_NODES)
    to_three = np.stack([EDGES[0], EDGES[1] % 3])
    gcn = egnn.GCNConv(6, 3, key=key)
    sage = egnn.SAGEConv(6, 3, key=key)
    return {
        "`x` must have 6 features per row; got an array of shape .7, 5.": lambda: gcn(x[:, :5], EDGES),
        "`edge_weight` must have one entry for each of the 10 edges": lambda: gcn(x, edges, jnp.ones(9)),
        "`edge_weight` must be None when `edge_index` is an Adjacency": lambda: gcn(
            x, egnn.gcn_norm(EDGES, num_nodes=7), jnp.ones(10)
        ),
        "`num_nodes` must be given": lambda: egnn.gcn_norm(EDGES),
        "`add_self_loops` must be False": lambda: egnn.GCNConv(6, 3, normalize=False, add_self_loops=True, key=key),
        "`size` must be given": lambda: sage((x, None), EDGES),
        "`size` must be .number of senders, number of receivers. = .7, 3.": lambda: sage(pair, to_three, size=(7, 7)),
        "`x` must be one array with `flow=": lambda: egnn.SAGEConv(6, 3, flow="target_to_source", key=key)(
            pair, to_three
        ),
        "`edge_index` was built for num_senders=7": lambda: sage(
            x[:4], EdgeIndex.from_array(EDGES, num_senders=7, num_receivers=7)
        ),
        "`K` .number of hops. must be at least 0; got -1": lambda: egnn.SGConv(6, 3, K=-1, key=key),
        "`K` .number of Chebyshev polynomials. must be at least 1": lambda: egnn.ChebConv(6, 3, K=0, key=key),
        "`batch` must be given with one `lambda_max` per graph": lambda: egnn.ChebConv(6, 3, K=2, key=key)(
            x, EDGES, lambda_max=jnp.ones(2)
        ),
        "`aggr` must be an aggregation or one of": lambda: egnn.SAGEConv(6, 3, "average", key=key),
        "`aggr='lstm'` needs sizes": lambda: egnn.SimpleConv("lstm"),
        "`x` must be one array with `combine_root='self_loop'`": lambda: egnn.SimpleConv(combine_root="self_loop")(
            pair, to_three
        ),
        "`x` must have as many features for receivers as for senders": lambda: egnn.GINConv(jnp.tanh)(
            (x, jnp.ones((3, 4))), to_three
        ),
    }


@pytest.mark.parametrize("match", list(_bad(jr.key(0))))
def test_bad_input_is_refused_by_name(match, getkey):
    with pytest.raises(ValueError, match=match):
        _bad(getkey())[match]()
