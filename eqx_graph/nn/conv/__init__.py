"""Convolutions: one operator family a file."""

from ._adjacency import Adjacency as Adjacency, gcn_norm as gcn_norm
from ._agnn import AGNNConv as AGNNConv
from ._appnp import APPNP as APPNP
from ._attend import AttentionWeights as AttentionWeights
from ._cg import CGConv as CGConv
from ._cheb import ChebConv as ChebConv, cheb_norm as cheb_norm
from ._edge import DynamicEdgeConv as DynamicEdgeConv, EdgeConv as EdgeConv
from ._film import FiLMConv as FiLMConv
from ._gat import GATConv as GATConv
from ._gated import GatedGraphConv as GatedGraphConv, ResGatedGraphConv as ResGatedGraphConv
from ._gatv2 import GATv2Conv as GATv2Conv
from ._gcn import GCNConv as GCNConv
from ._gcn2 import GCN2Conv as GCN2Conv
from ._gin import GINConv as GINConv, GINEConv as GINEConv
from ._graph import GraphConv as GraphConv
from ._le import LEConv as LEConv
from ._lg import LGConv as LGConv
from ._mixhop import MixHopConv as MixHopConv
from ._nn import NNConv as NNConv
from ._sage import SAGEConv as SAGEConv
from ._sg import SGConv as SGConv, SSGConv as SSGConv
from ._simple import SimpleConv as SimpleConv
from ._tag import TAGConv as TAGConv
from ._transformer import TransformerConv as TransformerConv
