"""The table of the notes, executed: what NumPy and PyTorch write, and what JAX writes for it.

Corrections: `jax.random.PRNGKey` gives untyped keys, `jax.random.key` is the form to use. `jnp.where(mask)` and boolean
masks have data-dependent shapes and fail under jit unless `size=` is given. `x.reshape` replaces torch's `view`;
nothing is in place, so torch's trailing underscore has no counterpart. `lax` is stricter than `jnp`, not faster:
compiled they are one. The last rows, control flow and several devices, are the scripts before and after this one.
"""

import tempfile

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax


def main() -> None:
    x = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]], np.float32)
    a = jnp.asarray(x)
    same = {  # NumPy row of the table: JAX's spelling, which is NumPy's
        "zeros": (np.zeros((2, 3)), jnp.zeros((2, 3))),
        "ones_like": (np.ones_like(x), jnp.ones_like(a)),
        "arange": (np.arange(0, 10, 2), jnp.arange(0, 10, 2)),
        "linspace": (np.linspace(0, 1, 5), jnp.linspace(0, 1, 5)),
        "reshape": (np.reshape(x, (3, 2)), jnp.reshape(a, (3, 2))),
        "transpose": (np.transpose(x), jnp.transpose(a)),
        "concatenate": (np.concatenate([x, x], axis=0), jnp.concatenate([a, a], axis=0)),
        "stack": (np.stack([x, x], axis=1), jnp.stack([a, a], axis=1)),
        "expand_dims": (np.expand_dims(x, axis=0), jnp.expand_dims(a, axis=0)),
        "matmul": (np.matmul(x, x.T), jnp.matmul(a, a.T)),
        "sum": (np.sum(x, axis=0), jnp.sum(a, axis=0)),
        "argmax": (np.argmax(x, axis=-1), jnp.argmax(a, axis=-1)),
        "clip": (np.clip(x, 1.0, 4.0), jnp.clip(a, 1.0, 4.0)),
        "gather": (x[np.array([0, 1]), np.array([1, 2])], a[jnp.array([0, 1]), jnp.array([1, 2])]),
        "sort": (np.sort(x, axis=0), jnp.sort(a, axis=0)),
        "squeeze": (np.squeeze(x[:, None]), jnp.squeeze(a[:, None])),
        "newaxis": (x[:, np.newaxis], a[:, jnp.newaxis]),
        "add": (np.add(x, x), jax.lax.add(a, a)),  # `lax` under `jnp`: no promotion, no broadcasting, the same program
        "dot": (np.dot(x, x.T), jax.lax.dot(a, a.T)),
        "mean": (np.mean(x), jnp.mean(a)),
        "where": (np.where(x > 2.5), jnp.where(a > 2.5)),  # outside jit only
        "argsort": (np.argsort(x), jnp.argsort(a)),
        "inv": (np.linalg.inv(square := x @ x.T), jnp.linalg.inv(square)),
        "eig": (np.sort(np.linalg.eig(square)[0]), jnp.sort(jnp.linalg.eig(square)[0].real)),
        "norm": (np.linalg.norm(x), jnp.linalg.norm(a)),
        "solve": (np.linalg.solve(x @ x.T, x), jnp.linalg.solve(a @ a.T, a)),
        "mask": (x[x > 2.5], a[a > 2.5]),  # outside jit only
    }
    for name, (numpy_value, jax_value) in same.items():
        np.testing.assert_allclose(jax_value, numpy_value, rtol=1e-4, err_msg=name)

    np.testing.assert_array_equal(a.at[0].set(10.0)[0], [10.0, 10.0, 10.0])  # x[0] = 10
    np.testing.assert_array_equal(a.at[0].add(5.0)[0], x[0] + 5)  # x[0] += 5; torch: x.add_(5)
    np.testing.assert_array_equal(jax.lax.top_k(a, 2)[0], -np.partition(-x, 1)[:, :2])  # torch.topk
    index = jnp.array([[0], [1]])
    np.testing.assert_array_equal(jnp.take_along_axis(a, index, 1), np.take_along_axis(x, np.array(index), 1))  # gather
    scattered = jnp.put_along_axis(a, index, 9.0, 1, inplace=False)  # x.scatter_(1, index, 9)
    assert scattered[0, 0] == scattered[1, 1] == 9.0

    try:
        jax.jit(lambda v: v[v > 2.5])(a)
        raise AssertionError("a mask has no static shape")
    except jax.errors.NonConcreteBooleanIndexError:
        found = jax.jit(lambda v: jnp.where(v.ravel() > 2.5, size=4, fill_value=-1)[0])(a)
    np.testing.assert_array_equal(found, [0, 4, 5, -1])

    # torch: x.requires_grad, y.sum().backward(), x.grad
    np.testing.assert_array_equal(jax.grad(lambda v: jnp.sum(v * 2))(a), np.full((2, 3), 2.0))
    loss = optax.softmax_cross_entropy_with_integer_labels(a, jnp.array([0, 1])).mean()  # F.cross_entropy
    np.testing.assert_allclose(
        loss, -np.log([np.exp(3) / np.exp(x[0]).sum(), np.exp(5) / np.exp(x[1]).sum()]).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(jax.nn.softmax(a, axis=-1).sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(jax.nn.relu(a - 2), np.maximum(x - 2, 0))
    assert jax.device_put(a, jax.devices("cpu")[0]).device.platform == "cpu"  # x.to(device)

    key, subkey = jr.split(jr.key(42))
    assert jr.normal(subkey, (3, 3)).shape == (3, 3) and key.dtype == jr.key(0).dtype
    with tempfile.TemporaryFile() as file:  # np.save; whole models: eqx_dynamics.training, or eqx.tree_serialise_leaves
        np.save(file, a)
        file.seek(0)
        np.testing.assert_array_equal(np.load(file), x)
    print(f"{len(same)} rows agree")


if __name__ == "__main__":
    main()
