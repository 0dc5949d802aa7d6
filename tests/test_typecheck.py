"""Shapes and types are checked at every public call unless an environment variable turns it off."""

import os
import subprocess
import sys

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest

import eqx_dynamics.spiking as snn
from eqx_graph import EdgeIndex
from eqx_graph.nn import GCNConv
from eqx_graph.ops import segment_sum


def test_a_wrong_shape_names_function_argument_and_axes():
    with pytest.raises(jaxtyping.TypeCheckError) as error:
        segment_sum(jnp.ones((4, 2)), jnp.zeros(3, jnp.int32), 2)
    message = str(error.value)
    for part in ("eqx_graph.ops._segment.segment_sum", "parameter 'segment_ids'", "i32[3]", "rows", "rows=4"):
        assert part in message


@pytest.mark.parametrize(
    "call", [lambda layer, x: layer(x, [[0], [1]]), lambda layer, x: layer(x[0], jnp.zeros((2, 1), int))]
)
def test_a_layer_refuses_lists_and_vectors(call):
    layer = GCNConv(3, 2, key=jr.key(0))
    with pytest.raises(jaxtyping.TypeCheckError, match=r"GCNConv.__call__[\s\S]*parameter '(x|edge_index)'"):
        call(layer, jnp.ones((4, 3)))


def test_constructors_are_checked():
    with pytest.raises(jaxtyping.TypeCheckError, match=r"GCNConv.__init__[\s\S]*parameter 'out_features'"):
        GCNConv(3, "2", key=jr.key(0))  # pyright: ignore[reportArgumentType]
    with pytest.raises(jaxtyping.TypeCheckError, match=r"LICell.__init__[\s\S]*parameter 'size'"):
        snn.LICell(3.5)  # pyright: ignore[reportArgumentType]


def test_checks_cost_nothing_once_compiled():
    """The checks run while tracing; what is compiled knows nothing of them (nor of ids that were checked before)."""
    layer = GCNConv(3, 2, key=jr.key(0))
    call = eqx.filter_jit(lambda x, edges: layer(x, edges))
    edges = EdgeIndex.from_array(np.zeros((2, 1), np.int32), num_senders=4, num_receivers=4)
    text = call.lower(jnp.ones((4, 3)), edges).as_text()
    assert "callback" not in text


PROGRAM = """
import jax.numpy as jnp
from eqx_graph.ops import segment_sum
try:
    print(segment_sum(jnp.ones((4, 2)), jnp.zeros((4, 1), jnp.int32), 2).shape)
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("disable", ["0", "1"])
def test_the_switch_turns_checks_off(disable):
    environment = os.environ | {"JAXTYPING_DISABLE": disable}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120)
    checked = run.stdout.strip() == "TypeCheckError"
    assert checked == (disable == "0"), run.stdout + run.stderr


OPTIONAL = ("matplotlib", "grain", "orbax", "sklearn", "tqdm", "tyro", "networkx", "safetensors", "optimistix")


def test_import_stays_light():
    """Optional dependencies are imported where they are used."""
    program = f"import sys, eqx_graph, eqx_dynamics; print([name for name in {OPTIONAL} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.strip() == "[]"
