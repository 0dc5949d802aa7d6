"""Pytrees: nested containers whose leaves every transformation maps over; models and graphs are pytrees too."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu

from eqx_graph.datasets import mutag
from eqx_graph.nn.conv import GCNConv


def main() -> None:
    tree = {"a": jnp.ones(2), "b": (jnp.zeros(3), None, [1.0])}
    assert len(jax.tree.leaves(tree)) == 3  # None is an empty subtree, a number is a leaf
    doubled = jax.tree.map(lambda leaf: 2 * leaf, tree)
    assert doubled["b"][2] == [2.0] and jax.tree.structure(doubled) == jax.tree.structure(tree)

    conv = GCNConv(7, 4, key=jr.key(0))
    paths = [
        jtu.keystr(path, simple=True, separator=".")
        for path, leaf in jtu.tree_leaves_with_path(conv)
        if eqx.is_array(leaf)
    ]
    assert "lin.weight" in paths and "bias" in paths  # the names under which weights are saved
    params, static = eqx.partition(conv, eqx.is_inexact_array)
    assert eqx.tree_equal(eqx.combine(params, static), conv)
    larger = eqx.tree_at(lambda c: c.lin.weight, conv, conv.lin.weight + 1)  # a new tree, the old one unchanged
    assert not eqx.tree_equal(larger, conv)

    graph = mutag()[0]
    assert {leaf.shape[0] for leaf in jax.tree.leaves(graph)} == {17, 2, 38, 1}  # x, edge_index, edge_attr, y
    on_device = jax.device_put(graph)  # any pytree, whole
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(on_device))
    print(f"leaves of a layer: {paths}; of a graph: {len(jax.tree.leaves(graph))}")


if __name__ == "__main__":
    main()
