"""The training step in eqx_graph."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from _problem import EDGE_FEATURES, HEADS, Arrays, Problem, cross_entropy
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
    """The jitted step and the bytes of temporary memory it was compiled to take."""
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
    optimizer = optax.adam(1e-3)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    def one_step(batch, model, state):
        def loss_fn(model):
            x, edges, edge_attr, y = batch
            return cross_entropy(model(x, edges, edge_attr), y)

        loss, grads = eqx.filter_value_and_grad(loss_fn)(model)
        updates, state = optimizer.update(grads, state)
        return loss, eqx.apply_updates(model, updates), state

    @eqx.filter_jit(donate="all-except-first")
    def train_step(batch, model, state):
        if problem.scan == 1:
            return one_step(batch, model, state)
        variables, rest = eqx.partition(model, eqx.is_array)

        def body(carry, _):
            loss, model, state = one_step(batch, eqx.combine(carry[0], rest), carry[1])
            return (eqx.filter(model, eqx.is_array), state), loss

        (variables, state), losses = jax.lax.scan(body, (variables, state), length=problem.scan)
        return losses[-1], eqx.combine(variables, rest), state

    batch = jax.block_until_ready((x, edges, edge_attr, y))
    compiled = None

    def step() -> float:
        nonlocal compiled, model, state
        if compiled is None:
            compiled = train_step.lower(batch, model, state).compile()
        loss, model, state = compiled(batch, model, state)
        return float(loss)

    def temp_bytes() -> int | None:
        analysis = compiled.compiled.memory_analysis()
        return None if analysis is None else analysis.temp_size_in_bytes

    return step, temp_bytes
