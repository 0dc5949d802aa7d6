"""What the training tests share: a small regression, its step, and the loop one would write by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from eqx_dynamics.training import ArrayData


def regression(num_examples: int = 96) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(num_examples, 3)).astype(np.float32)
    return x, np.sin(x.sum(-1, keepdims=True))


def make_model(seed: int = 0, width: int = 8) -> eqx.nn.MLP:
    return eqx.nn.MLP(3, 1, width, 1, key=jr.key(seed))


def squared_error(model, batch, key):
    x, y = batch
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def with_metrics(model, batch, key):
    loss = squared_error(model, batch, key)
    return loss, {"rmse": jnp.sqrt(loss)}


class Normed(eqx.Module):
    """A batch norm before a linear map: a model with statistics."""

    norm: eqx.nn.BatchNorm
    linear: eqx.nn.Linear

    def __init__(self, key):
        self.norm = eqx.nn.BatchNorm(3, "batch", mode="batch")
        self.linear = eqx.nn.Linear(3, 1, key=key)

    def __call__(self, x, state):
        x, state = self.norm(x, state)
        return self.linear(x), state


def normed_loss(model, batch, key, statistics):
    x, y = batch
    out, statistics = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, statistics)
    return jnp.mean((out - y) ** 2), {}, statistics


def data(batch_size: int = 16, num_examples: int = 96, **options) -> ArrayData:
    return ArrayData(regression(num_examples), batch_size, **options)


def batches(batch_size: int = 16, num_examples: int = 96) -> list[tuple[np.ndarray, np.ndarray]]:
    x, y = regression(num_examples)
    return [(x[i : i + batch_size], y[i : i + batch_size]) for i in range(0, num_examples, batch_size)]


def close(one, other, *, rtol: float = 1e-6, atol: float = 1e-7) -> bool:
    return bool(eqx.tree_equal(eqx.filter(one, eqx.is_array), eqx.filter(other, eqx.is_array), rtol=rtol, atol=atol))
