"""The same training step in PyTorch Geometric, JraphX and jraph (extra `bench`)."""

from collections.abc import Callable

import numpy as np

from _problem import EDGE_FEATURES, HEADS, Arrays, Peer, Problem, cross_entropy


Step = tuple[Callable[[], float], Callable[[], int | None]]


def make_step(problem: Problem, peer: Peer, arrays: Arrays) -> Step:
    """The step of `peer`."""
    if peer in ("pyg", "pyg-csr"):
        return _pyg(problem, arrays, csr=peer == "pyg-csr")
    return _jraphx(problem, arrays) if peer == "jraphx" else _jraph(problem, arrays)


def _pyg(problem: Problem, arrays: Arrays, *, csr: bool) -> Step:
    import torch
    from torch import nn
    from torch_geometric import nn as pyg

    torch.set_num_threads(problem.threads)
    hidden = problem.hidden

    def conv(width: int) -> nn.Module:
        def mlp(*sizes):
            return nn.Sequential(nn.Linear(sizes[0], sizes[1]), nn.ReLU(), nn.Linear(sizes[1], sizes[2]))

        match problem.layer:
            case "gcn":
                return pyg.GCNConv(width, hidden, cached=True)
            case "sage":
                return pyg.SAGEConv(width, hidden)
            case "gat":
                return pyg.GATConv(width, hidden // HEADS, heads=HEADS)
            case "gatv2":
                return pyg.GATv2Conv(width, hidden // HEADS, heads=HEADS)
            case "transformer":
                return pyg.TransformerConv(width, hidden // HEADS, heads=HEADS)
            case "edge":
                return pyg.EdgeConv(mlp(2 * width, hidden, hidden))
            case "nnconv":
                return pyg.NNConv(width, hidden, mlp(EDGE_FEATURES, 16, width * hidden))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = conv(problem.features), conv(hidden)
            self.out = nn.Linear(hidden, problem.classes)

        def forward(self, x, *graph):
            return self.out(self.second(self.first(x, *graph).relu(), *graph).relu())

    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    x, y = torch.tensor(arrays.x), torch.tensor(arrays.y, dtype=torch.long)
    edge_index = torch.tensor(arrays.edge_index, dtype=torch.long)
    graph = [edge_index]
    if csr:
        size = (problem.nodes, problem.nodes)
        ones = torch.ones(problem.edges)
        graph = [torch.sparse_coo_tensor(edge_index.flip(0), ones, size).coalesce().to_sparse_csr()]
    if arrays.edge_attr is not None:
        graph.append(torch.tensor(arrays.edge_attr))

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x, *graph), y)
        loss.backward()
        optimizer.step()
        return float(loss)

    return step, lambda: None


def _jraphx(problem: Problem, arrays: Arrays) -> Step:
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx
    from jraphx.nn.conv import EdgeConv, GATConv, GATv2Conv, GCNConv, SAGEConv, TransformerConv

    hidden = problem.hidden

    def conv(width: int, rngs: nnx.Rngs) -> nnx.Module:
        match problem.layer:
            case "gcn":
                return GCNConv(width, hidden, rngs=rngs)
            case "sage":
                return SAGEConv(width, hidden, rngs=rngs)
            case "gat":
                return GATConv(width, hidden // HEADS, heads=HEADS, rngs=rngs)
            case "gatv2":
                return GATv2Conv(width, hidden // HEADS, heads=HEADS, rngs=rngs)
            case "transformer":
                return TransformerConv(width, hidden // HEADS, heads=HEADS, rngs=rngs)
            case "edge":
                first, second = nnx.Linear(2 * width, hidden, rngs=rngs), nnx.Linear(hidden, hidden, rngs=rngs)
                return EdgeConv(nnx.Sequential(first, nnx.relu, second))
            case _:
                raise SystemExit(f"jraphx has no {problem.layer} layer")

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first, self.second = conv(problem.features, rngs), conv(hidden, rngs)
            self.out = nnx.Linear(hidden, problem.classes, rngs=rngs)

        def __call__(self, x, edge_index):
            return self.out(nnx.relu(self.second(nnx.relu(self.first(x, edge_index)), edge_index)))

    net = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(net, optax.adam(1e-3), wrt=nnx.Param)
    batch = jnp.asarray(arrays.x), jnp.asarray(arrays.edge_index), jnp.asarray(arrays.y)

    @nnx.jit
    def train_step(net, optimizer, x, edge_index, y):
        def loss_fn(net):
            return cross_entropy(net(x, edge_index), y)

        loss, grads = nnx.value_and_grad(loss_fn)(net)
        optimizer.update(net, grads)
        return loss

    jax.block_until_ready(batch)
    return lambda: float(train_step(net, optimizer, *batch)), lambda: None


def _jraph(problem: Problem, arrays: Arrays) -> Step:
    import jax
    import jax.numpy as jnp
    import jraph
    import optax

    if problem.layer not in ("gcn", "gat"):
        raise SystemExit(f"jraph has no {problem.layer} layer")
    hidden = problem.hidden
    rng = np.random.default_rng(1)

    def scale(*shape):
        return jnp.asarray(rng.normal(0, (2 / sum(shape[:2])) ** 0.5, shape), jnp.float32)

    widths = (problem.features, hidden)
    params = {
        "weight": [scale(width, hidden) for width in widths],
        "query": [scale(2 * hidden // HEADS, HEADS) for _ in widths],
        "out": scale(hidden, problem.classes),
    }

    def conv(params, k, graph):
        weight, query = params["weight"][k], params["query"][k]
        if problem.layer == "gcn":
            return jraph.GraphConvolution(lambda nodes: nodes @ weight, add_self_edges=True)(graph)

        def heads(nodes):
            return nodes.reshape(-1, HEADS, hidden // HEADS)

        def logit(sent, received, _):
            return jax.nn.leaky_relu(
                jnp.einsum("ehc,ch->eh", jnp.concatenate([heads(sent), heads(received)], -1), query), 0.2
            )[..., None]

        def apply(nodes):
            return nodes.reshape(-1, hidden)

        def query_fn(nodes):
            return heads(nodes @ weight)

        layer = jraph.GAT(query_fn, lambda s, r, e: logit(s.reshape(-1, hidden), r.reshape(-1, hidden), e), apply)
        return layer(graph)

    def loss_fn(params, graph, y):
        for k in range(2):
            graph = conv(params, k, graph)
            graph = graph._replace(nodes=jax.nn.relu(graph.nodes))
        return cross_entropy(graph.nodes @ params["out"], y)

    optimizer = optax.adam(1e-3)
    state = optimizer.init(params)

    @jax.jit
    def train_step(params, state, graph, y):
        loss, grads = jax.value_and_grad(loss_fn)(params, graph, y)
        updates, state = optimizer.update(grads, state)
        return loss, optax.apply_updates(params, updates), state

    senders, receivers = jnp.asarray(arrays.edge_index)
    graph = jraph.GraphsTuple(
        nodes=jnp.asarray(arrays.x),
        edges=None,
        senders=senders,
        receivers=receivers,
        globals=None,
        n_node=jnp.asarray([problem.nodes]),
        n_edge=jnp.asarray([problem.edges]),
    )
    y = jnp.asarray(arrays.y)

    def step() -> float:
        nonlocal params, state
        loss, params, state = train_step(params, state, graph, y)
        return float(loss)

    return step, lambda: None
