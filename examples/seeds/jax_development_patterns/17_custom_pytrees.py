"""Custom pytree classes: the linked library is superseded by `eqx.Module`, a frozen dataclass that is a pytree.

What one gets for free: fields checked against their shapes, jit, grad, vmap, save and load.
"""

import dataclasses
import io

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqx_graph import Graph


class Line(eqx.Module):
    slope: Float[Array, ""]
    offset: Float[Array, ""]
    name: str = eqx.field(static=True)

    def __call__(self, x: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return self.slope * x + self.offset


def main() -> None:
    line = Line(jnp.asarray(2.0), jnp.asarray(1.0), "a line")
    gradient = jax.grad(lambda line: line(jnp.asarray(3.0)))(line)  # the gradient is a Line
    assert isinstance(gradient, Line) and (gradient.slope, gradient.offset) == (3.0, 1.0)
    lines = eqx.filter_vmap(lambda slope: Line(slope, jnp.zeros(()), "many"))(jnp.arange(3.0))  # an ensemble is a Line
    assert lines.slope.shape == (3,)
    assert eqx.filter_vmap(lambda line: line(jnp.asarray(2.0)))(lines).tolist() == [0.0, 2.0, 4.0]

    buffer = io.BytesIO()
    eqx.tree_serialise_leaves(buffer, line)
    buffer.seek(0)
    assert eqx.tree_equal(eqx.tree_deserialise_leaves(buffer, gradient), dataclasses.replace(line))
    try:
        Graph(x=jnp.ones((3, 2)), batch=jnp.zeros(4, int))  # three rows, four ids
        raise AssertionError("fields that do not fit must be refused")
    except TypeError as error:
        assert "num_nodes" in str(error)
    print("gradients, ensembles and files of a custom class; fields that do not fit are refused")


if __name__ == "__main__":
    main()
