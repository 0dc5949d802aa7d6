"""Values whose derivative is said to be another's; this file alone touches `jax.extend` and `jax.interpreters`.

One primitive does what a `jax.custom_jvp` would: partial evaluation of a `scan` drops such rules once they have been
used, which loses the second derivative of what is scanned (jax 0.10: the gradient of a gradient through a step in a
`scan` is wrong), and keeps those of primitives.
"""

from typing import Any

import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array


def with_tangent(value: Any, tangent: Any, slope: Any = None) -> Array:
    """`value`, with the derivatives of `tangent`, times `slope` if there is one; all of one shape and dtype."""
    return _with_tangent_p.bind(value, tangent, *(() if slope is None else (slope,)))


def _jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    out = _with_tangent_p.bind(*primals)
    if isinstance(tangents[1], ad.Zero):
        return out, jnp.zeros_like(out)
    return out, tangents[1] if len(primals) == 2 else primals[2] * tangents[1]


def _batch(args: Any, axes: Any) -> tuple[Any, int]:
    size = next(arg.shape[axis] for arg, axis in zip(args, axes, strict=True) if axis is not None)
    return _with_tangent_p.bind(*(batching.bdim_at_front(*pair, size) for pair in zip(args, axes, strict=True))), 0


def _first(value: Any, *_: Any) -> Any:
    return value


_with_tangent_p = Primitive("eqx_dynamics_with_tangent")
_with_tangent_p.def_impl(_first)
_with_tangent_p.def_abstract_eval(_first)
mlir.register_lowering(_with_tangent_p, mlir.lower_fun(_first, multiple_results=False))
ad.primitive_jvps[_with_tangent_p] = _jvp
batching.primitive_batchers[_with_tangent_p] = _batch
