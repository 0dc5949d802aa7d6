"""What a batch of examples is."""

import equinox as eqx
import jax.tree_util as jtu
from jaxtyping import PyTree


def check_sizes(batch: PyTree) -> None:
    """Raise unless arrays in tuples, lists and dicts share their first size; a class may mean several (a graph)."""
    sizes = {
        f"batch{jtu.keystr(path)}": leaf.shape[0]
        for path, leaf in jtu.tree_leaves_with_path(batch)
        if eqx.is_array(leaf)
        and leaf.ndim
        and all(isinstance(entry, jtu.SequenceKey | jtu.DictKey) for entry in path)  # no field of a class
    }
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"`batch` must have one leading size, that of its examples; got {sizes}. Arrays that are not one per "
            "example (a graph's nodes and edges, time before examples) go in the fields of a class: "
            "`eqx_graph.Graph`, an `eqx.Module` or a `NamedTuple` of your own."
        )
