"""One step of a neuron's differential equation, as an object."""

import abc
import math
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float


Variables = TypeVar("Variables")


class AbstractIntegrator(eqx.Module):
    """Advances $\\dot y = f(y)$ by `dt` in `substeps` equal parts; `y` is a pytree of arrays, one leaf a variable."""

    substeps: int = eqx.field(static=True, default=1, kw_only=True)

    def __check_init__(self):
        if self.substeps < 1:
            raise ValueError(f"`substeps` must be at least 1; got {self.substeps}.")

    @property
    @abc.abstractmethod
    def reach(self) -> float:
        """The longest stable step, in units of the shortest time constant; infinite if there is none."""

    @abc.abstractmethod
    def step(self, field: Callable[[Variables], Variables], y: Variables, dt: float) -> Variables:
        """`y` one step of `dt` (ms) later; `field` gives its derivative per ms."""

    def advance(self, field: Callable[[Any], Any], y: Any, dt: float) -> Any:
        """`y` after all substeps of one step `dt` (ms).

        **Raises:** at run time, if an explicit scheme leaves a variable that is not finite.
        """
        before = y
        for _ in range(self.substeps):
            y = self.step(field, y, dt / self.substeps)
        if math.isinf(self.reach):
            return y
        diverged = jnp.array(False)
        for old, new in zip(jtu.tree_leaves(before), jtu.tree_leaves(y), strict=True):
            diverged = diverged | (jnp.isfinite(old).all() & ~jnp.isfinite(new).all())
        return eqx.error_if(
            y,
            diverged,
            f"`dt` is too long for {type(self).__name__}: a variable overflowed in a step of {dt:g} ms. Use a smaller "
            "`dt`, more `substeps`, or `ExponentialEuler()`.",
        )


class ForwardEuler(AbstractIntegrator):
    r"""$y \leftarrow y + \Delta t\, f(y)$, all variables from the old ones (Norse)."""

    @property
    def reach(self) -> float:
        return 1.0  # Twice as long ones oscillate.

    def step(self, field: Callable[[Variables], Variables], y: Variables, dt: float) -> Variables:
        return jtu.tree_map(lambda a, rate: a + dt * rate, y, field(y))


class ExponentialEuler(AbstractIntegrator):
    r"""$y_i \leftarrow y_i + \Delta t\, \varphi(\Delta t\, \partial_i f_i)\, f_i(y)$ with $\varphi(z) = (e^z - 1)/z$.

    Each variable is linearised in itself and solved exactly, so that equations linear in their own variable (leaks,
    gates) are exact for fixed other variables and stable at any step. $z$ is capped at 30, where a spike's upstroke has
    long passed any threshold: BrainState's version overflows to NaN there (ExpIF at 1 ms, Izhikevich at 1 ms).

    **Arguments:** `sequential`: later variables see the new values of earlier ones (BrainState's AdEx and Izhikevich);
    otherwise all start from the old ones.
    """

    sequential: bool = eqx.field(static=True, default=False)

    @property
    def reach(self) -> float:
        return math.inf

    def step(self, field: Callable[[Variables], Variables], y: Variables, dt: float) -> Variables:
        leaves, treedef = jtu.tree_flatten(y)
        new = list(leaves)
        for i, leaf in enumerate(leaves):
            others = tuple(new if self.sequential else leaves)

            def rate(own: Array, i: int = i, others: tuple[Array, ...] = others) -> Array:
                return jtu.tree_leaves(field(jtu.tree_unflatten(treedef, [*others[:i], own, *others[i + 1 :]])))[i]

            slope, derivative = _slope(rate, leaf)
            new[i] = leaf + dt * _phi(dt * derivative) * slope
        return jtu.tree_unflatten(treedef, new)


class RungeKutta4(AbstractIntegrator):
    """The classical fourth-order Runge-Kutta step: for accuracy where nothing is stiff."""

    @property
    def reach(self) -> float:
        return 2.785  # Where its stability region meets the real axis.

    def step(self, field: Callable[[Variables], Variables], y: Variables, dt: float) -> Variables:
        def ahead(rate: Variables, fraction: float) -> Variables:
            return jtu.tree_map(lambda a, r: a + fraction * dt * r, y, rate)

        k1 = field(y)
        k2 = field(ahead(k1, 0.5))
        k3 = field(ahead(k2, 0.5))
        k4 = field(ahead(k3, 1.0))
        return jtu.tree_map(lambda a, p, q, r, s: a + dt / 6 * (p + 2 * q + 2 * r + s), y, k1, k2, k3, k4)


def exprel(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""$(e^z - 1) / z$, smooth through $z = 0$ and finite in value and gradient at every order used here."""
    small = jnp.abs(z) < 1e-2
    safe = jnp.where(small, 1.0, z)
    return jnp.where(small, 1 + z / 2 + z**2 / 6 + z**3 / 24, jnp.expm1(safe) / safe)


def _slope(rate: Callable[[Array], Array], own: Array) -> tuple[Array, Array]:
    return jax.jvp(rate, (own,), (jnp.ones_like(own),))


def _phi(z: Array) -> Array:
    return exprel(jnp.minimum(z, 30.0))
