"""In and out of other libraries: spiking networks in the Neuromorphic Intermediate Representation (extra `nir`)."""

from ._discretization import Discretization as Discretization
from ._graph_cell import GraphCell as GraphCell, GraphState as GraphState
from ._nir_read import from_nir as from_nir
from ._nir_write import to_nir as to_nir
