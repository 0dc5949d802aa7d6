"""Computing once what does not change: the public forms of what the document found in a private class (`PartialVal`).

`jax.linearize` keeps the linear map at a point, `jax.ensure_compile_time_eval` computes while tracing, and plain data
flow does the rest: compute outside the step and pass it in, as `gcn_norm` does for the normalised adjacency.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from eqx_graph import batch
from eqx_graph.datasets import mutag
from eqx_graph.nn.conv import GCNConv, gcn_norm


def main() -> None:
    def f(x: jax.Array) -> jax.Array:
        return jnp.tanh(x) ** 2

    x = jnp.arange(3.0)
    _, jvp = jax.linearize(f, x)  # tanh is evaluated once; each application is linear
    assert "tanh" not in str(jax.make_jaxpr(jvp)(x)) and "tanh" in str(jax.make_jaxpr(f)(x))
    np.testing.assert_allclose(jvp(jnp.ones(3)), jax.jvp(f, (x,), (jnp.ones(3),))[1], rtol=1e-6)

    def with_table(x: jax.Array) -> jax.Array:
        with jax.ensure_compile_time_eval():
            table = jnp.linalg.inv(jnp.eye(3) + 1)  # a constant of the program
        return table @ x

    assert "inv" not in str(jax.make_jaxpr(with_table)(x))

    graph = jax.device_put(batch(mutag()[:4]))
    conv = GCNConv(7, 4, key=jr.key(0))
    ready = gcn_norm(graph.edge_index, num_nodes=graph.num_nodes)
    prepared, plain = (str(jax.make_jaxpr(lambda x, e: conv(x, e))(graph.x, e)) for e in (ready, graph.edge_index))
    assert "rsqrt" in plain or "pow" in plain
    assert "rsqrt" not in prepared and "pow" not in prepared  # no degree is computed in the step
    np.testing.assert_allclose(conv(graph.x, ready), conv(graph.x, graph.edge_index), rtol=1e-5, atol=1e-6)
    print("linearised once, folded while compiling, normalised once")


if __name__ == "__main__":
    main()
