"""Linear recurrences through a whole sequence at once, for machines with many idle lanes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._leak import Leaky
from ._parameter import resolve


def in_parallel() -> bool:
    """Whether linear recurrences run as associative scans: on accelerators. On CPU the loop is faster."""
    return jax.default_backend() != "cpu"


def leaky_sum(
    keep: Float[Array, "..."] | float,
    inputs: Float[Array, " time *shape"],
    start: Float[Array, "*shape"],
    *,
    reverse: bool = False,
) -> Float[Array, " time *shape"]:
    r"""$y_t = \kappa y_{t-1} + x_t$ for all $t$ by an associative scan: $O(\log T)$ deep instead of $T$.

    **Arguments:** `keep`: $\kappa$, one number or broadcasting against `start`; `inputs`: $x_t$; `start`: $y_0$;
    `reverse`: from the last step to the first.

    **Returns:** $y_1 \dots y_T$. Rounding differs from the loop's.
    """
    keep = jnp.asarray(keep, inputs.dtype)
    keep = jnp.reshape(keep, (1,) * start.ndim) if keep.ndim == 0 else keep
    factors = jnp.broadcast_to(keep[None], (inputs.shape[0], *keep.shape))

    def combine(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        return first[0] * second[0], second[0] * first[1] + second[1]

    powers, sums = jax.lax.associative_scan(combine, (factors, inputs), reverse=reverse)
    return sums + powers * start[None]


def leaky_membranes(
    cell: Leaky,
    xs: Float[Array, " time *shape"],
    membrane: Float[Array, "*shape"],
    current: Float[Array, "*shape"] | None,
    *,
    reverse: bool,
) -> tuple[Float[Array, " time *shape"], Float[Array, "*shape"] | None]:
    """The membranes of a cell without reset after every step, and its synaptic current after the last."""
    drives, synapse = xs, cell.synapse
    if synapse is not None and current is not None:
        alpha = cell.decay.factor(cell.dt, resolve(synapse.tau_syn, current))
        currents = leaky_sum(alpha, xs, current, reverse=reverse)
        shifted = (currents[1:], current[None]) if reverse else (current[None], currents[:-1])
        drives = jnp.concatenate(shifted) if synapse.delayed else currents
        current = currents[0] if reverse else currents[-1]
    tau = resolve(cell.tau_mem, membrane)
    beta = cell.decay.factor(cell.dt, tau)
    gain = jnp.asarray(cell.input_gain.factor(cell.dt, tau, beta, membrane), membrane.dtype)
    resting = jnp.asarray(resolve(cell.rest, membrane), membrane.dtype)
    gained = drives * (gain if gain.ndim == 0 else gain[None])
    above = leaky_sum(beta, gained, membrane - resting, reverse=reverse)
    return above + (resting if resting.ndim == 0 else resting[None]), current
