"""Layers: messages, aggregations, and what surrounds them."""

from . import aggr as aggr
from ._activation import relu as relu
from ._message_passing import MessagePassing as MessagePassing
from .conv import (
    APPNP as APPNP,
    Adjacency as Adjacency,
    AGNNConv as AGNNConv,
    AttentionWeights as AttentionWeights,
    CGConv as CGConv,
    ChebConv as ChebConv,
    DynamicEdgeConv as DynamicEdgeConv,
    EdgeConv as EdgeConv,
    FiLMConv as FiLMConv,
    GATConv as GATConv,
    GatedGraphConv as GatedGraphConv,
    GATv2Conv as GATv2Conv,
    GCN2Conv as GCN2Conv,
    GCNConv as GCNConv,
    GINConv as GINConv,
    GINEConv as GINEConv,
    GraphConv as GraphConv,
    LEConv as LEConv,
    LGConv as LGConv,
    MixHopConv as MixHopConv,
    NNConv as NNConv,
    ResGatedGraphConv as ResGatedGraphConv,
    SAGEConv as SAGEConv,
    SGConv as SGConv,
    SimpleConv as SimpleConv,
    SSGConv as SSGConv,
    TAGConv as TAGConv,
    TransformerConv as TransformerConv,
    cheb_norm as cheb_norm,
    gcn_norm as gcn_norm,
)
from .models import (
    GAT as GAT,
    GCN as GCN,
    GIN as GIN,
    MLP as MLP,
    GraphSAGE as GraphSAGE,
    JumpingKnowledge as JumpingKnowledge,
)
from .norm import (
    BatchNorm as BatchNorm,
    GraphNorm as GraphNorm,
    GraphSizeNorm as GraphSizeNorm,
    InstanceNorm as InstanceNorm,
    LayerNorm as LayerNorm,
    MeanSubtractionNorm as MeanSubtractionNorm,
    MessageNorm as MessageNorm,
    PairNorm as PairNorm,
)
from .pool import (
    global_add_pool as global_add_pool,
    global_max_pool as global_max_pool,
    global_mean_pool as global_mean_pool,
    global_min_pool as global_min_pool,
)
