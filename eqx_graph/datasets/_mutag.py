"""MUTAG, shipped with the package."""

import importlib.resources

from ..data import Graph
from ._tu import read_tu_dataset


def mutag() -> list[Graph]:
    """188 nitroaromatic compounds, each mutagenic on *Salmonella typhimurium* (`y` = 1, 125 of them) or not (0, 63).

    Nodes are the atoms except hydrogen, `x` is one-hot over C, N, O, F, I, Cl, Br; every bond is a pair of directed
    edges, `edge_attr` is one-hot over aromatic, single, double, triple. 3,371 nodes and 7,442 edges in all.

    **Returns:** 188 `Graph`s with NumPy leaves: `x` `(num_nodes, 7)`, `edge_attr` `(num_edges, 4)`, `y` `(1,)`.

    ??? cite "Reference"
        Debnath, Lopez de Compadre, Debnath, Shusterman, Hansch, J. Med. Chem. 34(2), 786-797, 1991; graph form: Kriege
        and Mutzel, ICML 2012; collection: Morris et al., TUDataset, 2020. Source of the files: `MUTAG/SOURCE.md`.
    """
    with importlib.resources.as_file(importlib.resources.files("eqx_graph.datasets") / "MUTAG") as folder:
        return read_tu_dataset(folder)
