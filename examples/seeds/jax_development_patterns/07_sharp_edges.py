"""The difficult parts of JAX that the document links to, each shown once, with what the packages do about it."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from eqx_graph import EdgeIndex, Graph, as_edges
from eqx_graph.ops import segment_sum


def main() -> None:
    x = jnp.arange(3.0)
    assert x[10] == 2.0 and x[-1] == 2.0  # reading past the end clamps, negative ids wrap: no error
    assert x.at[10].set(9.0).tolist() == [0.0, 1.0, 2.0]  # writing past the end is dropped
    for bad in ([[0], [3]], [[-1], [0]]):  # so ids are checked where graphs are made
        try:
            Graph.from_edge_index(bad, np.zeros((3, 1), np.float32))
            raise AssertionError("an id out of range must be refused")
        except ValueError as error:
            assert "edge_index" in str(error)
    assert segment_sum(jnp.ones(2), jnp.array([0, 5]), 2).tolist() == [1.0, 0.0]  # documented: such rows count nowhere

    prints = []

    @jax.jit
    def noisy(x: jax.Array) -> jax.Array:
        prints.append(1)  # a side effect runs while tracing, not at every call
        return x + 1

    noisy(x)
    noisy(x)
    assert len(prints) == 1

    try:
        segment_sum([1.0, 2.0], [0, 0], 1)  # pyright: ignore[reportArgumentType]  lists are no arrays
        raise AssertionError("a list must be refused by name")
    except TypeError as error:
        assert "data" in str(error)

    assert jnp.asarray(1e-9) + 1.0 == 1.0 and jnp.ones(1).dtype == jnp.float32  # float32 unless x64 is enabled
    with jax.enable_x64():
        assert jnp.asarray(1e-9) + 1.0 != 1.0
    key = jr.key(0)
    assert jr.normal(key) == jr.normal(key)  # a key used twice gives the same numbers twice: split it

    layout = EdgeIndex.from_array(np.array([[0, 1], [1, 0]]), num_senders=2, num_receivers=2)
    try:
        as_edges(layout, num_senders=5, num_receivers=5)  # what every layer does with its edges: sizes must agree
        raise AssertionError("a layout of another graph must be refused")
    except ValueError as error:
        assert "edge_index" in str(error)
    print(
        "silent clamps, dropped writes, traced side effects, float32: known, shown, and guarded where graphs are made"
    )


if __name__ == "__main__":
    main()
