"""Any linear function given together with its transpose (JAX's own `linear_call` has no batching rule)."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir


def zero_tangent(x: Any) -> Any:
    return ad.Zero(jax.typeof(x).to_tangent_aval())


def batch_size(args: Sequence, dims: Sequence) -> int:
    return next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)


linear_call_p = Primitive("eqx_graph_linear_call")
linear_call_p.multiple_results = True


def linear_call(
    apply: Callable[[Any, Any], Any], transpose: Callable[[Any, Any], Any], residuals: Any, operand: Any
) -> Any:
    """`apply(residuals, operand)`, linear in `operand`, whose transpose is `transpose(residuals, cotangent)`.

    Both functions must take every array as an argument. Forward mode differentiates `apply`; reverse mode calls
    `transpose`, whose own derivatives are those of the operations in it.
    """
    closed, out_shape = jax.make_jaxpr(apply, return_shape=True)(residuals, operand)
    flat_residuals, residual_tree = jax.tree.flatten(residuals)
    flat_operand, operand_tree = jax.tree.flatten(operand)
    out_tree = jax.tree.structure(out_shape)

    def flat_transpose(flat_residuals: Sequence, flat_cts: Sequence) -> list:
        residuals = jax.tree.unflatten(residual_tree, flat_residuals)
        cts = transpose(residuals, jax.tree.unflatten(out_tree, flat_cts))
        return operand_tree.flatten_up_to(cts)

    out = linear_call_p.bind(
        *flat_residuals, *flat_operand, jaxpr=closed, transpose=flat_transpose, num_residuals=len(flat_residuals)
    )
    return jax.tree.unflatten(out_tree, out)


def _linear_impl(*args: Any, jaxpr: ClosedJaxpr, transpose: Callable, num_residuals: int) -> Any:
    del transpose, num_residuals
    return jaxpr_as_fun(jaxpr)(*args)


def _linear_jvp(primals: Sequence, tangents: Sequence, *, jaxpr: ClosedJaxpr, **params: Any) -> tuple:
    out = linear_call_p.bind(*primals, jaxpr=jaxpr, **params)
    num_residuals = params["num_residuals"]
    total = [zero_tangent(o) for o in out]
    operand_tangents = tangents[num_residuals:]
    if any(type(t) is not ad.Zero for t in operand_tangents):
        moved = map(ad.instantiate_zeros, operand_tangents)
        total = linear_call_p.bind(*primals[:num_residuals], *moved, jaxpr=jaxpr, **params)
    moving = [k for k in range(num_residuals) if type(tangents[k]) is not ad.Zero]
    if moving:

        def of_residuals(*moved: Any) -> list:
            args = [*primals]
            for k, value in zip(moving, moved, strict=True):
                args[k] = value
            return jaxpr_as_fun(jaxpr)(*args)

        _, extra = jax.jvp(of_residuals, [primals[k] for k in moving], [tangents[k] for k in moving])
        total = [ad.add_tangents(t, e) for t, e in zip(total, extra, strict=True)]
    return out, total


def _linear_transpose(cts: Sequence, *args: Any, transpose: Callable, num_residuals: int, **_: Any) -> list:
    nothing = [None] * num_residuals
    if all(type(ct) is ad.Zero for ct in cts):
        return nothing + [None] * (len(args) - num_residuals)
    operand_cts = transpose(tuple(args[:num_residuals]), [ad.instantiate_zeros(ct) for ct in cts])
    return nothing + list(operand_cts)


def _linear_batch(
    args: Sequence, dims: Sequence, *, jaxpr: ClosedJaxpr, transpose: Callable, num_residuals: int
) -> tuple:
    size = batch_size(args, dims)
    residuals = [a if d is None else jnp.moveaxis(a, d, 0) for a, d in zip(args, dims, strict=True)][:num_residuals]
    axes = tuple(None if d is None else 0 for d in dims[:num_residuals])
    operand = [
        jnp.broadcast_to(a, (size, *a.shape)) if d is None else jnp.moveaxis(a, d, 0)
        for a, d in zip(args[num_residuals:], dims[num_residuals:], strict=True)
    ]

    def split(function):
        return lambda res, lin: function(*res, *lin)

    apply = jax.vmap(split(jaxpr_as_fun(jaxpr)), in_axes=(axes, 0))
    batched = jax.make_jaxpr(apply)(tuple(residuals), operand)
    out = linear_call_p.bind(
        *residuals,
        *operand,
        jaxpr=batched,
        transpose=jax.vmap(lambda res, cts: list(transpose(res, cts)), in_axes=(axes, 0)),
        num_residuals=num_residuals,
    )
    return out, [0] * len(out)


linear_call_p.def_impl(_linear_impl)
linear_call_p.def_abstract_eval(lambda *_, jaxpr, **__: jaxpr.out_avals)
mlir.register_lowering(linear_call_p, mlir.lower_fun(_linear_impl, multiple_results=True))
ad.primitive_jvps[linear_call_p] = _linear_jvp
ad.primitive_transposes[linear_call_p] = _linear_transpose
batching.primitive_batchers[linear_call_p] = _linear_batch
