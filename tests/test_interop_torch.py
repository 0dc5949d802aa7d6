"""PyTorch state dicts into Equinox modules: converted layers against torch's formulas, and every refusal."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_graph.interop import load_torch_state_dict
from eqx_graph.nn.norm import BatchNorm


RNG = np.random.default_rng(0)


def _draw(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


class Net(eqx.Module):
    layers: list[eqx.nn.Linear]
    experts: dict
    scale: jax.Array
    eps: float
    quantiles: tuple[float, ...]
    heads: int = eqx.field(static=True)


def _net(key) -> Net:
    k1, k2, k3 = jr.split(key, 3)
    experts = {("a", "to", "b"): eqx.nn.Linear(2, 3, key=k3)}
    layers = [eqx.nn.Linear(3, 2, key=k1), eqx.nn.Linear(2, 2, use_bias=False, key=k2)]
    return Net(layers, experts, jnp.ones((2, 3)), 0.0, (0.5, 0.5), 2)


def _net_state() -> dict[str, np.ndarray]:
    return {
        "layers.0.weight": _draw(2, 3),
        "layers.0.bias": _draw(2),
        "layers.1.weight": _draw(2, 2),
        "experts.<a___to___b>.weight": _draw(3, 2),
        "experts.<a___to___b>.bias": _draw(3),
        "scale": _draw(1, 2, 3),
    }


def test_paths_follow_attributes_indices_and_keys(getkey):
    state = _net_state()
    floats = {"eps": np.array([0.25]), "quantiles": np.array([[0.1], [0.9]])}
    net = load_torch_state_dict(_net(getkey()), state | floats)
    np.testing.assert_array_equal(net.layers[1].weight, state["layers.1.weight"])
    np.testing.assert_array_equal(net.experts["a", "to", "b"].bias, state["experts.<a___to___b>.bias"])
    np.testing.assert_array_equal(net.scale, state["scale"][0])
    assert (net.eps, net.quantiles) == (0.25, (0.1, 0.9))
    dashed = {name.replace("<a___to___b>", "a__to__b"): value for name, value in state.items()}
    assert eqx.tree_equal(load_torch_state_dict(_net(getkey()), dashed), load_torch_state_dict(_net(getkey()), state))


def test_the_shapes_of_a_module_are_enough(getkey):
    state = {"weight": _draw(4, 3), "bias": _draw(4)}
    skeleton = eqx.filter_eval_shape(eqx.nn.Linear, 3, 4, key=getkey())
    loaded = eqx.filter_jit(load_torch_state_dict)(skeleton, state)
    assert eqx.tree_equal(loaded, load_torch_state_dict(eqx.nn.Linear(3, 4, key=getkey()), state))


def test_every_misfit_is_named_in_one_error(getkey):
    state = _net_state()
    state["layers.0.weight"] = _draw(4, 3)
    state["lin.weight"] = state.pop("scale")
    with pytest.raises(ValueError, match=r"this Net: missing \['scale'\]; unexpected \['lin.weight'\]; ") as error:
        load_torch_state_dict(_net(getkey()), state)
    assert "'layers.0.weight' has shape (4, 3), the module needs (2, 3)" in str(error.value)
    with pytest.raises(ValueError, match=r"Net: 'layers.0.weight' has shape"):
        load_torch_state_dict(_net(getkey()), state, strict=False)


def test_a_transposed_vector_is_not_taken_for_a_row(getkey):
    with pytest.raises(ValueError, match=r"'weight' has shape \(4, 1\), the module needs \(1, 4\)"):
        load_torch_state_dict(eqx.nn.Linear(4, 1, use_bias=False, key=getkey()), {"weight": _draw(4, 1)})


def test_not_strict_keeps_what_is_not_given(getkey):
    net = _net(getkey())
    loaded = load_torch_state_dict(net, {"layers.0.bias": np.ones(2, np.float32), "other": _draw(1)}, strict=False)
    assert eqx.tree_equal(loaded, eqx.tree_at(lambda n: n.layers[0].bias, net, jnp.ones(2)))
    assert eqx.tree_equal(load_torch_state_dict(net, {}, strict=False), net)


def test_a_value_that_is_no_array_is_refused(getkey):
    with pytest.raises(TypeError, match=r"`state_dict\['weight'\]` must be a NumPy or JAX array; got builtins.list"):
        load_torch_state_dict(eqx.nn.Linear(4, 1, key=getkey()), {"weight": [[1.0]]})


def test_dtype_is_the_state_dicts(getkey):
    linear = eqx.nn.Linear(2, 2, use_bias=False, key=getkey())
    assert load_torch_state_dict(linear, {"weight": _draw(2, 2).astype(np.float16)}).weight.dtype == jnp.float16
    with jax.enable_x64(True):
        assert load_torch_state_dict(linear, {"weight": _draw(2, 2).astype(np.float64)}).weight.dtype == jnp.float64


@pytest.mark.parametrize("names", [("0", "2", "4"), ("lins.0", "lins.1", "lins.2")])
def test_mlp_takes_linear_layers_in_order(getkey, names):
    mlp = eqx.nn.MLP(3, 2, 5, 2, key=getkey())
    state = {}
    for name, (out, into) in zip(names, [(5, 3), (5, 5), (2, 5)], strict=True):
        state |= {f"{name}.weight": _draw(out, into), f"{name}.bias": _draw(out)}
    loaded = load_torch_state_dict(mlp, state)
    for name, layer in zip(names, loaded.layers, strict=True):
        np.testing.assert_array_equal(layer.weight, state[f"{name}.weight"])
        np.testing.assert_array_equal(layer.bias, state[f"{name}.bias"])
    with pytest.raises(ValueError, match=r"missing \['0.bias', '0.weight', '2.bias'"):
        load_torch_state_dict(mlp, {})


def test_sequential_counts_activations_and_prelu_has_a_weight(getkey):
    layers = [eqx.nn.Linear(3, 4, key=getkey()), eqx.nn.Lambda(jax.nn.relu), eqx.nn.Linear(4, 2, key=getkey())]
    state = {"0.weight": _draw(4, 3), "0.bias": _draw(4), "2.weight": _draw(2, 4), "2.bias": _draw(2)}
    x = _draw(3)
    hidden = state["0.weight"] @ x + state["0.bias"]
    expected = state["2.weight"] @ np.maximum(hidden, 0) + state["2.bias"]
    got = load_torch_state_dict(eqx.nn.Sequential(layers), state)(jnp.asarray(x))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    prelu = load_torch_state_dict(eqx.nn.PReLU(), {"weight": np.array([0.3], np.float32)})
    np.testing.assert_allclose(prelu(jnp.array([-1.0, 2.0])), [-0.3, 2.0])


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize("suffix", ["", "_l0"])
def test_recurrent_cells_compute_torchs_formula(getkey, suffix):
    x, h, c = _draw(3), _draw(4), _draw(4)

    def weights(gates):
        shapes = {
            "weight_ih": (gates * 4, 3),
            "weight_hh": (gates * 4, 4),
            "bias_ih": (gates * 4,),
            "bias_hh": (gates * 4,),
        }
        return {name + suffix: _draw(*shape) for name, shape in shapes.items()}

    def both(state):
        w_ih, w_hh, b_ih, b_hh = state.values()
        return w_ih @ x + b_ih, w_hh @ h + b_hh

    state = weights(3)
    (ri, zi, ni), (rh, zh, nh) = (np.split(v, 3) for v in both(state))
    new = np.tanh(ni + _sigmoid(ri + rh) * nh)
    expected = (1 - _sigmoid(zi + zh)) * new + _sigmoid(zi + zh) * h
    cell = load_torch_state_dict(eqx.nn.GRUCell(3, 4, key=getkey()), state)
    np.testing.assert_allclose(cell(jnp.asarray(x), jnp.asarray(h)), expected, atol=1e-6)

    state = weights(4)
    i, f, g, o = np.split(sum(both(state)), 4)
    new_c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
    cell = load_torch_state_dict(eqx.nn.LSTMCell(3, 4, key=getkey()), state)
    got_h, got_c = cell(jnp.asarray(x), (jnp.asarray(h), jnp.asarray(c)))
    np.testing.assert_allclose(got_c, new_c, atol=1e-6)
    np.testing.assert_allclose(got_h, _sigmoid(o) * np.tanh(new_c), atol=1e-6)


def test_attention_splits_the_joint_projection(getkey):
    size, heads, length = 4, 2, 3
    make = lambda: eqx.nn.MultiheadAttention(  # noqa: E731
        heads, size, use_query_bias=True, use_key_bias=True, use_value_bias=True, use_output_bias=True, key=getkey()
    )
    state = {"in_proj_weight": _draw(12, 4), "in_proj_bias": _draw(12)}
    state |= {"out_proj.weight": _draw(4, 4), "out_proj.bias": _draw(4)}
    x = _draw(length, size)
    q, k, v = np.split(x @ state["in_proj_weight"].T + state["in_proj_bias"], 3, axis=1)
    q, k, v = (a.reshape(length, heads, size // heads) for a in (q, k, v))
    logits = np.einsum("qhc,khc->hqk", q, k) / np.sqrt(size // heads)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    mixed = np.einsum("hqk,khc->qhc", weights, v).reshape(length, size)
    attention = load_torch_state_dict(make(), state)
    np.testing.assert_allclose(
        attention(*(jnp.asarray(x),) * 3), mixed @ state["out_proj.weight"].T + state["out_proj.bias"], atol=1e-5
    )
    for name, rows in zip(("q", "k", "v"), np.split(state.pop("in_proj_weight"), 3), strict=True):
        state[f"{name}_proj_weight"] = rows
    assert eqx.tree_equal(load_torch_state_dict(make(), state), attention)


@pytest.mark.parametrize("mode", ["batch", "ema"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_batch_norm_statistics_go_to_the_state(mode, prefix):
    state_dict = {prefix + n: np.abs(_draw(3)) for n in ("weight", "bias", "running_mean", "running_var")}
    state_dict[prefix + "num_batches_tracked"] = np.array(7)
    build = lambda: eqx.nn.BatchNorm(3, "batch", mode=mode, inference=True)  # noqa: E731
    norm, state = eqx.nn.make_with_state(lambda: load_torch_state_dict(build(), state_dict))()
    x = _draw(5, 3)
    weight, bias, mean, var = (state_dict[prefix + n] for n in ("weight", "bias", "running_mean", "running_var"))
    got, _ = jax.vmap(norm, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(jnp.asarray(x), state)
    np.testing.assert_allclose(got, (x - mean) / np.sqrt(var + 1e-5) * weight + bias, rtol=1e-5, atol=1e-6)
    stripped, _ = eqx.nn.make_with_state(build)()
    with pytest.raises(ValueError, match="lost the initial state of its BatchNorm"):
        load_torch_state_dict(stripped, state_dict)


def test_gradients_reach_the_state_dict(getkey):
    cell = eqx.nn.GRUCell(3, 4, key=getkey())
    state = {"weight_ih": (12, 3), "weight_hh": (12, 4), "bias_ih": (12,), "bias_hh": (12,)}
    state = {name: jnp.asarray(_draw(*shape)) for name, shape in state.items()}

    def loss(state_dict):
        return load_torch_state_dict(cell, state_dict)(jnp.ones(3), jnp.ones(4)).sum()

    grads = jax.grad(loss)(state)
    assert grads.keys() == state.keys()
    np.testing.assert_allclose(grads["bias_ih"][:8], grads["bias_hh"][:8], rtol=1e-6)
    assert not np.allclose(grads["bias_ih"][8:], grads["bias_hh"][8:])


def test_a_norm_that_lost_its_state_says_so():
    state_dict = {"weight": np.ones(4), "bias": np.zeros(4), "running_mean": np.full(4, 5.0), "running_var": np.ones(4)}
    build = lambda: BatchNorm(4)  # noqa: E731
    norm, state = eqx.nn.make_with_state(lambda: load_torch_state_dict(build(), state_dict))()
    np.testing.assert_allclose(eqx.nn.inference_mode(norm)(jnp.ones((2, 4)), state)[0], -4, rtol=1e-4)
    stripped, _ = eqx.nn.make_with_state(build)()
    with pytest.raises(ValueError, match="lost the initial state of its BatchNorm"):
        load_torch_state_dict(stripped, state_dict)
