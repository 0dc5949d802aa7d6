"""The classical Runge-Kutta method over a fixed grid."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree


State = PyTree[Float[Array, "..."]]


def integrate(
    field: Callable[[State], State], start: State, num_steps: int, time_step: float, *, substeps: int = 1
) -> State:
    """The solution of $ds/dt = f(s)$ after 1, 2, ... `num_steps` time steps, by the fourth-order Runge-Kutta method.

    **Arguments:** `substeps`: Runge-Kutta steps per time step; precision and dtype are those of `start`.

    **Raises:** a run-time error if the solution becomes non-finite.
    """
    h = time_step / substeps

    def add(state: State, slope: State, amount: float) -> State:
        return jtu.tree_map(lambda s, k: s + amount * k, state, slope)

    def advance(state: State) -> State:
        k1 = field(state)
        k2 = field(add(state, k1, h / 2))
        k3 = field(add(state, k2, h / 2))
        k4 = field(add(state, k3, h))
        return jtu.tree_map(lambda s, a, b, c, d: s + h / 6 * (a + 2 * b + 2 * c + d), state, k1, k2, k3, k4)

    def step(state: State, _: None) -> tuple[State, State]:
        state = jax.lax.fori_loop(0, substeps, lambda _, s: advance(s), state)
        return state, state

    _, states = jax.lax.scan(step, start, length=num_steps)
    is_bad = jnp.any(jnp.stack([~jnp.all(jnp.isfinite(leaf)) for leaf in jtu.tree_leaves(states)]))
    return eqx.error_if(states, is_bad, "The simulation became non-finite: choose a smaller `time_step`.")
