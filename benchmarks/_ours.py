"""The training step in eqx_graph."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from _problem import EDGE_FEATURES, HEADS, Arrays, Problem, cross_entropy
from eqx_dynamics import training
from eqx_graph import EdgeIndex
from eqx_graph.nn import relu
from eqx_graph.nn.conv import EdgeConv, GATConv, GATv2Conv, GCNConv, NNConv, SAGEConv, TransformerConv, gcn_norm


class Net(eqx.Module):
    """Two layers with a ReLU behind each, and a linear map."""

    convs: list[eqx.Module]
    out: eqx.nn.Linear

    def __call__(self, x, edges, edge_attr):
        for conv in self.convs:
            args = (edges,) if edge_attr is None else (edges, edge_attr)
            x = relu(conv(x, *args))
        return x @ self.out.weight.T + self.out.bias


def make_conv(problem: Problem, in_features: int, key: jax.Array) -> eqx.Module:
    """One layer, with the peers' options."""
    hidden, net_key = problem.hidden, jr.fold_in(key, 1)
    match problem.layer:
        case "gcn":
            return GCNConv(in_features, hidden, key=key)
        case "sage":
            return SAGEConv(in_features, hidden, key=key)
        case "gat":
            return GATConv(in_features, hidden // HEADS, heads=HEADS, key=key)
        case "gatv2":
            return GATv2Conv(in_features, hidden // HEADS, heads=HEADS, key=key)
        case "transformer":
            return TransformerConv(in_features, hidden // HEADS, heads=HEADS, key=key)
        case "edge":
            return EdgeConv(eqx.nn.MLP(2 * in_features, hidden, hidden, 1, key=net_key))
        case "nnconv":
            return NNConv(
                in_features, hidden, eqx.nn.MLP(EDGE_FEATURES, in_features * hidden, 16, 1, key=net_key), key=key
            )


def make_step(problem: Problem, arrays: Arrays) -> tuple[Callable[[], float], Callable[[], int | None]]:
    """The step and the bytes of temporary memory it was compiled to take; with `per_dispatch`, that many steps."""
    keys = jr.split(jr.key(0), 3)
    widths = (problem.features, problem.hidden)
    convs = [make_conv(problem, width, key) for width, key in zip(widths, keys[:2], strict=True)]
    model = Net(convs, eqx.nn.Linear(problem.hidden, problem.classes, key=keys[2]))
    sizes = {"num_senders": problem.nodes, "num_receivers": problem.nodes}
    edges = EdgeIndex.from_array(arrays.edge_index, **sizes)
    if problem.layer == "gcn":
        edges = eqx.filter_jit(gcn_norm)(edges)
    x, y = jnp.asarray(arrays.x), jnp.asarray(arrays.y)
    edge_attr = None if arrays.edge_attr is None else jnp.asarray(arrays.edge_attr)
    graph, optimizer = jax.block_until_ready((x, edges, edge_attr)), optax.adam(1e-3)
    if problem.per_dispatch:
        return _by_fit(graph, y, model, optimizer, problem.per_dispatch)
    return _by_hand(graph, y, model, optimizer)


def _loss(graph, model, labels):
    return cross_entropy(model(*graph), labels)


def _by_hand(graph, y, model, optimizer):
    """A step that is called by itself, as the peers' are."""
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit(donate="all-except-first")
    def train_step(batch, model, state):
        loss, grads = eqx.filter_value_and_grad(lambda model: _loss(batch[0], model, batch[1]))(model)
        updates, state = optimizer.update(grads, state)
        return loss, eqx.apply_updates(model, updates), state

    compiled = None

    def step() -> float:
        nonlocal compiled, model, state
        if compiled is None:
            compiled = train_step.lower((graph, y), model, state).compile()
        loss, model, state = compiled((graph, y), model, state)
        return float(loss)

    def temp_bytes() -> int | None:
        analysis = compiled.compiled.memory_analysis()
        return None if analysis is None else analysis.temp_size_in_bytes

    return step, temp_bytes


def _by_fit(graph, y, model, optimizer, per_dispatch):
    """By `fit`: the graph is part of the loss, the labels are the batch; the peers do not look for NaN either."""

    def loss_fn(graph, model, labels, key):
        return _loss(graph, model, labels[0])

    train = training.make_step(eqx.Partial(loss_fn, graph), optimizer, nan_policy=None)
    state, data = train.init(model, key=jr.key(1)), training.ArrayData(y[None], batch_size=1)

    def step() -> float:
        nonlocal state
        state, history = training.fit(state, train, data, steps=per_dispatch, steps_per_dispatch=per_dispatch)
        return float(history["loss"][0])

    return step, lambda: None
