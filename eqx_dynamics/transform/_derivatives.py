"""Derivatives with respect to chosen leaves of an argument: every one of them is a line on top of `_with_respect_to`.

State is explicit: what a function computes besides its value (new state, metrics) comes back as `aux`.
"""

import functools as ft
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import PyTree

from ._select import Choice, Filter, choose


_Argnums: TypeAlias = int | tuple[int, ...]
_Split: TypeAlias = Callable[[PyTree], tuple[PyTree, Any]]
_FLOATING: Filter = eqx.is_inexact_array


def grad(
    fn: Callable, wrt: Filter = _FLOATING, *, argnums: _Argnums = 0, has_aux: bool = False, return_value: bool = False
) -> Callable:
    """Gradient of a scalar function with respect to chosen leaves, by reverse mode.

    $g = \\partial f(\\theta, \\dots) / \\partial \\theta_{\\mathrm{chosen}}$.

    **Arguments:**

    - `fn`: `fn(tree, *args, **kwargs)` to a real scalar, or to `(scalar, aux)` with `has_aux`.
    - `wrt`: what to differentiate by, see `select`; by default every floating point array of the argument.
      Arrays of other dtypes among the chosen are left out.
    - `argnums`: which positional argument is chosen from, or a tuple of them, chosen from as one tuple.
    - `has_aux`: `fn` also returns something to hand through.
    - `return_value`: also return the value.

    **Returns:** a function of the same arguments to `grads`, `(grads, value)`, `(grads, aux)` or
    `(grads, value, aux)`. If `wrt` is a `where` function the gradients have the structure it returns, otherwise that
    of the argument with None elsewhere (so `eqx.apply_updates` takes them). The others of this family return the same.

    **Raises:** `ValueError` when called if `wrt` selects nothing, or `fn` does not return a real scalar.
    """
    return _with_respect_to(_grad, fn, wrt, argnums, has_aux, _seed_order(has_aux, return_value))


def value_and_grad(fn: Callable, wrt: Filter = _FLOATING, *, argnums: _Argnums = 0, has_aux: bool = False) -> Callable:
    """As `grad`, in the order of `jax.value_and_grad`: `(value, grads)`, or `((value, aux), grads)` with `has_aux`."""

    def pack(grads: PyTree, value: Any, aux: Any) -> tuple[Any, PyTree]:
        return ((value, aux) if has_aux else value), grads

    return _with_respect_to(_grad, fn, wrt, argnums, has_aux, pack)


def vector_grad(
    fn: Callable, wrt: Filter = _FLOATING, *, argnums: _Argnums = 0, has_aux: bool = False, return_value: bool = False
) -> Callable:
    """Gradient of the sum of all outputs of an array-valued function, $\\sum_k \\partial f_k / \\partial \\theta$.

    One reverse pass; equals the sum of the rows of `jacobian`. Arguments and results as `grad`.
    """
    return _with_respect_to(_vector_grad, fn, wrt, argnums, has_aux, _seed_order(has_aux, return_value))


def jacrev(
    fn: Callable, wrt: Filter = _FLOATING, *, argnums: _Argnums = 0, has_aux: bool = False, return_value: bool = False
) -> Callable:
    """Jacobian $\\partial f_k / \\partial \\theta_l$ by reverse mode: one pass per output number.

    The choice for fewer outputs than inputs. Arguments as `grad`; each output array is replaced by a tree of the
    chosen leaves, of shape `(*output, *leaf)`.
    """
    transform = ft.partial(jax.jacrev, has_aux=True)
    return _with_respect_to(_apply(transform), fn, wrt, argnums, has_aux, _seed_order(has_aux, return_value))


def jacfwd(
    fn: Callable, wrt: Filter = _FLOATING, *, argnums: _Argnums = 0, has_aux: bool = False, return_value: bool = False
) -> Callable:
    """Jacobian by forward mode: one pass per chosen number, for fewer inputs than outputs. As `jacrev` otherwise."""
    transform = ft.partial(jax.jacfwd, has_aux=True)
    return _with_respect_to(_apply(transform), fn, wrt, argnums, has_aux, _seed_order(has_aux, return_value))


jacobian = jacrev


def hessian(
    fn: Callable, wrt: Filter = _FLOATING, *, argnums: _Argnums = 0, has_aux: bool = False, return_value: bool = False
) -> Callable:
    """Second derivatives $\\partial^2 f / \\partial \\theta_k \\partial \\theta_l$, forward over reverse.

    Arguments as `grad`. Each chosen leaf is replaced by a tree of the chosen leaves: `hessian(loss)(model).weight.bias`
    has shape `(*weight.shape, *bias.shape)`. For products with a vector use `hvp`, which never builds it.
    """

    def transform(split: _Split) -> Callable:
        return jax.jacfwd(jax.jacrev(split, has_aux=True), has_aux=True)

    return _with_respect_to(_apply(transform), fn, wrt, argnums, has_aux, _seed_order(has_aux, return_value))


def hvp(
    fn: Callable, wrt: Filter = _FLOATING, *, argnums: _Argnums = 0, has_aux: bool = False, return_value: bool = False
) -> Callable:
    """Hessian-vector product $H v$, forward over reverse: the cost of about two gradients.

    Arguments as `grad`. **Returns:** `product(vector, *args)`, with `vector` in the structure of the gradients.

    **Raises:** also `ValueError` if `vector` has not the structure and shapes of the chosen leaves.
    """

    def product(vector: PyTree, *args: Any, **kwargs: Any) -> Any:
        transform = ft.partial(_hvp, vector)
        pack = _seed_order(has_aux, return_value)
        return _with_respect_to(transform, fn, wrt, argnums, has_aux, pack)(*args, **kwargs)

    return product


def _with_respect_to(
    transform: Callable[[_Split, PyTree], tuple[PyTree, tuple[Any, Any]]],
    fn: Callable,
    wrt: Filter,
    argnums: _Argnums,
    has_aux: bool,
    pack: Callable[[PyTree, Any, Any], Any],
) -> Callable:
    """The one wrapper: partition the chosen leaves out, apply a JAX transform of one argument, put them back."""

    @ft.wraps(fn, updated=())
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        choice = _choose_argument(args, argnums, wrt)

        def of_chosen(chosen: PyTree) -> tuple[Any, tuple[Any, Any]]:
            out = fn(*_put_argument(args, argnums, choice.put(chosen)), **kwargs)
            if has_aux and not (isinstance(out, tuple) and len(out) == 2):
                raise ValueError(f"`fn` must return `(value, aux)` with `has_aux=True`; got {type(out).__name__}.")
            value, aux = out if has_aux else (out, None)
            arrays, static = eqx.partition(aux, eqx.is_array)
            return value, (value, (arrays, _Static(static)))

        result, (value, (arrays, static)) = transform(of_chosen, choice.get())
        return pack(result, value, eqx.combine(arrays, static.value))

    return wrapped


class _Static(eqx.Module):
    """Carries functions and other non-arrays through a transform as part of the structure."""

    value: Any = eqx.field(static=True)


def _choose_argument(args: tuple[Any, ...], argnums: _Argnums, wrt: Filter) -> Choice:
    wanted = (argnums,) if isinstance(argnums, int) else argnums
    if not wanted or not all(-len(args) <= i < len(args) for i in wanted):
        raise ValueError(
            f"`argnums` must name positional arguments; got {argnums} for {len(args)} of them. Pass what is "
            "differentiated by position, not by keyword."
        )
    tree = args[argnums] if isinstance(argnums, int) else tuple(args[i] for i in argnums)
    return choose(tree, wrt, name="wrt", eligible=eqx.is_inexact_array)


def _put_argument(args: tuple[Any, ...], argnums: _Argnums, tree: PyTree) -> list[Any]:
    new = list(args)
    for i, value in [(argnums, tree)] if isinstance(argnums, int) else zip(argnums, tree, strict=True):
        new[i] = value
    return new


def _seed_order(has_aux: bool, return_value: bool) -> Callable[[PyTree, Any, Any], Any]:
    def pack(result: PyTree, value: Any, aux: Any) -> Any:
        extras = ((value,) if return_value else ()) + ((aux,) if has_aux else ())
        return (result, *extras) if extras else result

    return pack


def _apply(transform: Callable) -> Callable[[_Split, PyTree], tuple[PyTree, Any]]:
    return lambda split, chosen: transform(split)(chosen)


def _scalar(split: _Split) -> _Split:
    def checked(chosen: PyTree) -> tuple[Any, Any]:
        value, rest = split(chosen)
        leaves = jtu.tree_leaves(value)
        is_scalar = len(leaves) == 1 and jnp.shape(leaves[0]) == ()
        if not (is_scalar and jnp.issubdtype(jnp.result_type(leaves[0]), jnp.floating)):
            got = ", ".join(f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for leaf in leaves) or "nothing"
            raise ValueError(
                f"`fn` must return one real scalar to be differentiated by `grad`; got {got}. Reduce it (`jnp.mean`), "
                "use `vector_grad` or `jacobian`, or say `has_aux=True` if it returns `(value, aux)`."
            )
        return value, rest

    return checked


def _grad(split: _Split, chosen: PyTree) -> tuple[PyTree, Any]:
    return jax.grad(_scalar(split), has_aux=True)(chosen)


def _vector_grad(split: _Split, chosen: PyTree) -> tuple[PyTree, Any]:
    value, pull_back, rest = jax.vjp(split, chosen, has_aux=True)
    (grads,) = pull_back(jtu.tree_map(jnp.ones_like, value))
    return grads, rest


def _hvp(vector: PyTree, split: _Split, chosen: PyTree) -> tuple[PyTree, Any]:
    shapes = [jtu.tree_map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree) for tree in (vector, chosen)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "`vector` must have the structure, shapes and dtypes of the leaves chosen by `wrt` (as the "
            f"gradients); got {eqx.tree_pformat(vector)} for {eqx.tree_pformat(chosen)}."
        )
    _, product, rest = jax.jvp(jax.grad(_scalar(split), has_aux=True), (chosen,), (vector,), has_aux=True)
    return product, rest
