"""Ready-made models."""

from ._basic_gnn import GAT as GAT, GCN as GCN, GIN as GIN, GraphSAGE as GraphSAGE
from ._jumping_knowledge import JumpingKnowledge as JumpingKnowledge
from ._mlp import MLP as MLP
from ._stack import AbstractBasicGNN as AbstractBasicGNN
