"""What the laws hold for: one line per layer, aggregation or cell; `test_laws_*.py` check every law for each."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

import eqx_dynamics as dyn
import eqx_dynamics.spiking as snn
import eqx_graph.nn as egnn
import eqx_graph.nn.aggr as aggr


NUM_FEATURES = 5
EDGE_FEATURES = 3


class Conv(NamedTuple):
    """A layer called as `layer(x, edge_index)` or, if `edge` names a per-edge argument, `layer(x, edge_index, value)`.

    `x` has `NUM_FEATURES` features, an `edge_attr` `EDGE_FEATURES`, an `edge_weight` is one positive number.
    """

    make: Callable[[PRNGKeyArray], Any]
    edge: Literal["edge_weight", "edge_attr"] | None = None
    smooth: bool = True  # False where a derivative jumps too often for finite differences (max, median, ...)


def _nn(key: PRNGKeyArray, in_features: int, out_features: int) -> eqx.nn.MLP:
    return eqx.nn.MLP(in_features, out_features, 8, 1, activation=jnp.tanh, key=key)


CONVS: dict[str, Conv] = {
    "GCNConv": Conv(lambda key: egnn.GCNConv(5, 4, key=key), "edge_weight"),
    "GCNConv-nonorm": Conv(lambda key: egnn.GCNConv(5, 7, normalize=False, key=key), "edge_weight"),
    "SAGEConv": Conv(lambda key: egnn.SAGEConv(5, 4, key=key)),
    "SAGEConv-max": Conv(lambda key: egnn.SAGEConv(5, 4, "max", normalize=True, key=key)),
    "GINConv": Conv(lambda key: egnn.GINConv(_nn(key, 5, 4))),
    "GINEConv": Conv(lambda key: egnn.GINEConv(_nn(key, 5, 4), edge_dim=3, key=key), "edge_attr"),
    "GraphConv": Conv(lambda key: egnn.GraphConv(5, 4, key=key), "edge_weight"),
    "SGConv": Conv(lambda key: egnn.SGConv(5, 4, K=2, key=key), "edge_weight"),
    "SSGConv": Conv(lambda key: egnn.SSGConv(5, 4, alpha=0.2, K=2, key=key), "edge_weight"),
    "APPNP": Conv(lambda key: egnn.APPNP(2, 0.1), "edge_weight"),
    "TAGConv": Conv(lambda key: egnn.TAGConv(5, 4, K=2, key=key), "edge_weight"),
    "ChebConv": Conv(lambda key: egnn.ChebConv(5, 4, 3, key=key), "edge_weight"),
    "LGConv": Conv(lambda key: egnn.LGConv(), "edge_weight"),
    "SimpleConv": Conv(lambda key: egnn.SimpleConv(aggr="mean"), "edge_weight"),
    "GATConv": Conv(lambda key: egnn.GATConv(5, 4, heads=2, edge_dim=3, key=key), "edge_attr"),
    "GATv2Conv": Conv(lambda key: egnn.GATv2Conv(5, 4, heads=2, edge_dim=3, key=key), "edge_attr"),
    "TransformerConv": Conv(lambda key: egnn.TransformerConv(5, 4, heads=2, edge_dim=3, key=key), "edge_attr"),
    "AGNNConv": Conv(lambda key: egnn.AGNNConv()),
    "EdgeConv": Conv(lambda key: egnn.EdgeConv(_nn(key, 10, 4))),
    "NNConv": Conv(lambda key: egnn.NNConv(5, 4, _nn(key, 3, 20), key=key), "edge_attr"),
    "MixHopConv": Conv(lambda key: egnn.MixHopConv(5, 4, (0, 2), key=key), "edge_weight"),
    "LEConv": Conv(lambda key: egnn.LEConv(5, 4, key=key), "edge_weight"),
    "GatedGraphConv": Conv(lambda key: egnn.GatedGraphConv(6, 2, key=key), "edge_weight"),
    "ResGatedGraphConv": Conv(lambda key: egnn.ResGatedGraphConv(5, 4, edge_dim=3, key=key), "edge_attr"),
    "FiLMConv": Conv(lambda key: egnn.FiLMConv(5, 4, act=jnp.tanh, key=key)),
    "CGConv": Conv(lambda key: egnn.CGConv(5, dim=3, key=key), "edge_attr"),
}

# Rows grouped by an index, `aggregation(x, index, num_segments)`.
AGGREGATIONS: dict[str, Callable[[PRNGKeyArray], Any]] = {
    "Sum": lambda key: aggr.Sum(),
    "Mean": lambda key: aggr.Mean(),
    "Max": lambda key: aggr.Max(),
    "Min": lambda key: aggr.Min(),
    "Mul": lambda key: aggr.Mul(),
    "Var": lambda key: aggr.Var(),
    "Std": lambda key: aggr.Std(),
    "LogSumExp": lambda key: aggr.LogSumExp(),
    "Softmax": lambda key: aggr.Softmax(jnp.array([0.5, 1.0, 2.0])),
    "PowerMean": lambda key: aggr.PowerMean(2.0),
    "Median": lambda key: aggr.Median(),
    "Quantile": lambda key: aggr.Quantile((0.2, 0.7)),
    "Sort": lambda key: aggr.Sort(2),
}


class Cell(NamedTuple):
    """A cell called with inputs of `shape` (and any batch axes before it), normal draws times `scale`."""

    make: Callable[[PRNGKeyArray], Any]
    shape: tuple[int, ...] = (3,)
    scale: float = 2.0
    smooth: bool = False  # True where the derivative is the function's own, not a surrogate's
    slow: bool = False  # True where compiling the laws takes more than a few seconds


def _spikes(x: jax.Array) -> jax.Array:
    """Spikes for synapses that accept nothing else."""
    return (x > 0).astype(x.dtype)


def _dale(key: PRNGKeyArray) -> snn.DenseConnection:
    weight = snn.Dale(jax.random.normal(key, (3, 3)), jnp.array([1, -1, 1]))
    return snn.DenseConnection(snn.Masked(weight, jnp.array([[True, False, True]] * 3)), jnp.ones(3))


def _linear(key: PRNGKeyArray, out_features: int = 3) -> dyn.PerSample:
    return dyn.PerSample(eqx.nn.Linear(3, out_features, key=key), 1)


CELLS: dict[str, Cell] = {
    "LICell": Cell(lambda key: snn.LICell(3, jnp.array([5.0, 10.0, 20.0])), smooth=True),
    "LIFCell": Cell(lambda key: snn.LIFCell(3, jnp.array([5.0, 10.0, 20.0]))),
    "LIFCell-norse": Cell(lambda key: snn.LIFCell.like_norse(3)),
    "LIFCell-snntorch": Cell(lambda key: snn.LIFCell.like_snntorch(3)),
    "LIFCell-spyx": Cell(lambda key: snn.LIFCell.like_spyx(3, alpha=0.7)),
    "LIFCell-everything": Cell(
        lambda key: snn.LIFCell(
            3,
            snn.Positive(8.0),
            synapse=snn.SynapticCurrent(4.0),
            adaptation=snn.ThresholdAdaptation(30.0, strength=0.3),
            refractory=snn.Refractory(2),
            reset=snn.ValueReset(-0.2, timing="before_decay"),
        ),
        scale=6.0,
    ),
    "CobaLIFCell": Cell(lambda key: snn.CobaLIFCell(3, dt=1.0)),
    "Recurrent": Cell(lambda key: snn.Recurrent(snn.LIFCell(3), _linear(key))),
    "AdExCell": Cell(lambda key: snn.AdExCell(3), scale=50.0),
    "IzhikevichCell": Cell(lambda key: snn.IzhikevichCell(3), scale=20.0),
    "HodgkinHuxleyCell": Cell(lambda key: snn.HodgkinHuxleyCell(3), scale=20.0, slow=True),
    "MorrisLecarCell": Cell(lambda key: snn.MorrisLecarCell(3), scale=50.0, slow=True),
    "FitzHughNagumoCell": Cell(lambda key: snn.FitzHughNagumoCell(3), slow=True),
    "QIFCell": Cell(lambda key: snn.QIFCell(3), scale=50.0, slow=True),
    "GIFCell": Cell(lambda key: snn.GIFCell(3), scale=5.0, slow=True),
    "AlphaCell": Cell(lambda key: snn.AlphaCell(3), slow=True),
    "ResonateAndFireCell": Cell(lambda key: snn.ResonateAndFireCell(3)),
    "Sequential": Cell(
        lambda key: dyn.Sequential([_linear(key, 4), snn.LIFCell(4), jax.nn.relu, snn.LICell(4)]),
    ),
    "Parallel-synapses": Cell(
        lambda key: dyn.Sequential(
            [
                snn.Parallel([snn.ExponentialSynapse(3), snn.DualExponentialSynapse(3), snn.AlphaSynapse(3)]),
                snn.DenseConnection(jax.random.normal(key, (3, 3))),
            ]
        ),
        smooth=True,
    ),
    "Parallel-kinetic": Cell(
        lambda key: dyn.Sequential(
            [
                _spikes,
                snn.Parallel(
                    [snn.KineticSynapse.ampa(3), snn.NMDASynapse(3), snn.STPSynapse(3), snn.STDSynapse(3)],
                ),
            ]
        ),
        slow=True,
    ),
    "Residual-Delay": Cell(
        lambda key: snn.Residual(snn.Delay(3, jnp.array([0.4, 1.3, 2.6]), max_delay=3.0)), smooth=True
    ),
    "Recurrent-sparse": Cell(
        lambda key: snn.Recurrent(
            snn.LIFCell(3), snn.SparseConnection.fixed_probability(3, 3, 0.5, jnp.ones((3, 1)), key=key)
        ),
    ),
    "Sequential-dale": Cell(lambda key: dyn.Sequential([_dale(key), snn.LICell(3)]), smooth=True),
}
