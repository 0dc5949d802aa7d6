"""The guide's closing list, its debugging part: printing inside jit, checking shapes, profiling.

`jax.debug.print` and the profiler are right. `jax.debug.breakpoint` is no tool for shapes, which are known while
tracing: here every public call checks them and names function, argument and axes. (The rest of the list - scan,
checkpointing, padding, jit, vmap, several devices, dynamic batches - is blocks 1 to 11.)
"""

import contextlib
import io
import pathlib
import tempfile

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from eqx_graph.datasets import mutag
from eqx_graph.nn.conv import GCNConv


def main() -> None:
    graph = jax.device_put(mutag()[0])
    conv = GCNConv(7, 4, key=jr.key(0))

    @eqx.filter_jit
    def forward(conv: GCNConv, x: jax.Array) -> jax.Array:
        out = conv(x, graph.edge_index)
        jax.debug.print("largest activation {}", jnp.max(jnp.abs(out)))
        return out

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        out = jax.block_until_ready(forward(conv, graph.x))
        jax.effects_barrier()
    assert f"{float(jnp.max(jnp.abs(out))):.4f}"[:5] in printed.getvalue()

    try:
        forward(conv, graph.x[:, :5])  # five features into a layer for seven
        raise AssertionError("a wrong shape must be an error")
    except (TypeError, ValueError) as error:
        message = str(error)
    assert "7" in message and "5" in message

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder), jax.profiler.TraceAnnotation("forward"):
            jax.block_until_ready(forward(conv, graph.x))
        files = [path.suffix for path in pathlib.Path(folder).rglob("*") if path.is_file()]
    assert ".pb" in files  # open with xprof or perfetto; layers appear by name (`eqx_graph.GCNConv`)
    assert "eqx_graph.GCNConv" in str(forward.lower(conv, graph.x).compile().compiled.as_text())
    print("printed from inside jit, a wrong shape named, a profile written")


if __name__ == "__main__":
    main()
