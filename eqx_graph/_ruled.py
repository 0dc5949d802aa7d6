"""A function with a derivative rule of its own, which stays with it wherever it goes.

`jax.custom_jvp` says the same, but partial evaluation of a `scan` inlines such functions and forgets their rules: the
derivative of a gradient through a `scan` is then that of the code, not of the rule (jax 0.10 to 0.12).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from ._linear_call import batch_size


_ruled_p = Primitive("eqx_graph_ruled")
_ruled_p.multiple_results = True


def ruled(function: Callable[..., Any], rule: Callable[[tuple, tuple], tuple[Any, Any]]) -> Callable[..., Any]:
    """`function`, whose value and tangent are `rule(primals, tangents)`; tangents that are zero are a `SymbolicZero`.

    The rule must not close over arrays; it may call the ruled function, which gives it derivatives of any order.
    """

    def call(*args: Any) -> Any:
        flat, tree = jax.tree.flatten(args)
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        num_consts, out_tree = len(traced.consts), jax.tree.structure(shapes)

        def on_flat(*operands: Any) -> list:
            return jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, operands[:num_consts]))(*operands[num_consts:])

        def flat_rule(primals: Sequence, tangents: Sequence) -> tuple[list, list]:
            inputs = (jax.tree.unflatten(tree, v[num_consts:]) for v in (primals, tangents))
            out, moved = rule(*inputs)
            return jax.tree.leaves(out), out_tree.flatten_up_to(moved)

        operands = [*traced.consts, *flat]
        out = _ruled_p.bind(*operands, jaxpr=jax.make_jaxpr(on_flat)(*operands), rule=flat_rule)
        return jax.tree.unflatten(out_tree, out)

    return call


def jvp_of_moving(function: Callable[..., Any], primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    """`jax.jvp` for the tangents that a rule is given."""
    flat, tree = jax.tree.flatten(primals)
    moved = tree.flatten_up_to(tangents)
    moving = [k for k, tangent in enumerate(moved) if not isinstance(tangent, SymbolicZero)]

    def of_moving(*values: Any) -> Any:
        args = [*flat]
        for k, value in zip(moving, values, strict=True):
            args[k] = value
        return function(*jax.tree.unflatten(tree, args))

    return jax.jvp(of_moving, [flat[k] for k in moving], [moved[k] for k in moving])


def _evaluate(*args: Any, jaxpr: ClosedJaxpr, rule: Callable) -> list:
    del rule
    return jaxpr_as_fun(jaxpr)(*args)


def _still(x: Any) -> SymbolicZero:
    return SymbolicZero(x.to_tangent_aval())


def _jvp(primals: Sequence, tangents: Sequence, *, jaxpr: ClosedJaxpr, rule: Callable) -> tuple[list, list]:
    pairs = zip(tangents, jaxpr.in_avals, strict=True)
    out, moved = rule(primals, [_still(a) if type(t) is ad.Zero else t for t, a in pairs])
    return out, [ad.Zero(m.aval) if isinstance(m, SymbolicZero) else m for m in moved]


def _batch(args: Sequence, dims: Sequence, *, jaxpr: ClosedJaxpr, rule: Callable) -> tuple[list, list]:
    axes = tuple(None if d is None else 0 for d in dims)
    size = batch_size(args, dims)
    operands = [a if d is None else jnp.moveaxis(a, d, 0) for a, d in zip(args, dims, strict=True)]

    def batched(*operands: Any) -> list:
        return jax.vmap(jaxpr_as_fun(jaxpr), in_axes=axes, axis_size=size)(*operands)

    def batched_rule(primals: Sequence, tangents: Sequence) -> tuple[list, list]:
        moving = [k for k, t in enumerate(tangents) if not isinstance(t, SymbolicZero)]

        def one(primals: Sequence, moved: Sequence) -> tuple[list, list]:
            tangents: list[Any] = [_still(a) for a in jaxpr.in_avals]
            for k, tangent in zip(moving, moved, strict=True):
                tangents[k] = tangent
            out, out_moved = rule(primals, tangents)
            return out, [
                jnp.zeros_like(o) if isinstance(m, SymbolicZero) else m for o, m in zip(out, out_moved, strict=True)
            ]

        in_axes = list(axes), [axes[k] for k in moving]
        return jax.vmap(one, in_axes=in_axes, axis_size=size)(list(primals), [tangents[k] for k in moving])

    out = _ruled_p.bind(*operands, jaxpr=jax.make_jaxpr(batched)(*operands), rule=batched_rule)
    return out, [0] * len(out)


_ruled_p.def_impl(_evaluate)
_ruled_p.def_abstract_eval(lambda *_, jaxpr, rule: jaxpr.out_avals)
mlir.register_lowering(_ruled_p, mlir.lower_fun(_evaluate, multiple_results=True))
ad.primitive_jvps[_ruled_p] = _jvp
batching.primitive_batchers[_ruled_p] = _batch
