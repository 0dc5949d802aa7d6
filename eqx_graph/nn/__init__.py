"""Layers: messages, aggregations, and what surrounds them."""

from . import aggr as aggr
from ._message_passing import MessagePassing as MessagePassing
from .conv import (
    APPNP as APPNP,
    Adjacency as Adjacency,
    AGNNConv as AGNNConv,
    AttentionWeights as AttentionWeights,
    ChebConv as ChebConv,
    GATConv as GATConv,
    GATv2Conv as GATv2Conv,
    GCNConv as GCNConv,
    GINConv as GINConv,
    GINEConv as GINEConv,
    GraphConv as GraphConv,
    LGConv as LGConv,
    SAGEConv as SAGEConv,
    SGConv as SGConv,
    SimpleConv as SimpleConv,
    SSGConv as SSGConv,
    TAGConv as TAGConv,
    TransformerConv as TransformerConv,
    cheb_norm as cheb_norm,
    gcn_norm as gcn_norm,
)
