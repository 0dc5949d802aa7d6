"""From transition matrices to timescales and frequencies."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Complex, Float, Int, Num

from ._arrays import AnyArray, affine_fit, to_float64


class Spectrum(eqx.Module):
    r"""Eigenvalues $\lambda$ of one transition matrix or many, and what they mean in time.

    - `timescales`: $-\Delta t / \ln |\lambda|$, in the unit of the time step; infinite where $|\lambda| \ge 1$ (the
      mode does not decay), NaN for zero modes.
    - `frequencies`: $|\arg \lambda| / 2 \pi \Delta t$, in cycles per unit of time; NaN for zero modes.
    - `is_zero`: modes too small to have a timescale. (Upstream clips them and reports $\tau = 0.043\, \Delta t$.)
    """

    eigenvalues: Complex[Array, "*axes modes"]
    timescales: Float[Array, "*axes modes"]
    frequencies: Float[Array, "*axes modes"]
    is_zero: Bool[Array, "*axes modes"]

    @property
    def is_first(self) -> Bool[Array, "*axes modes"]:
        """One of every conjugate pair, and every real mode; never a zero mode."""
        return (self.eigenvalues.imag >= 0) & ~self.is_zero

    @property
    def is_stable(self) -> Bool[Array, "*axes modes"]:
        r"""Where $|\lambda| < 1$."""
        return jnp.abs(self.eigenvalues) < 1


def spectrum(
    transitions: Float[AnyArray, "*axes latents latents"], *, time_step: float = 1.0, zero: float = 1e-3
) -> Spectrum:
    """Eigenvalues, timescales and frequencies of the basis (`model.transition.transition_basis`) or of the effective
    dynamics (`record.transitions`); differentiable where eigenvalues are distinct.

    **Arguments:**

    - `time_step`: duration of one step; timescales come in its unit.
    - `zero`: modes with $|\\lambda|$ at most this are zero modes: they vanish within a step.

    **Raises:** `ValueError` for matrices that are not finite, a `time_step` that is not positive or a `zero`
    outside [0, 1).
    """
    if not time_step > 0:
        raise ValueError(f"`time_step` must be positive; got {time_step}.")
    if not 0 <= zero < 1:
        raise ValueError(f"`zero` must be at least 0 and less than 1; got {zero}.")
    matrices = jnp.asarray(transitions)
    if not isinstance(matrices, Tracer) and not np.all(np.isfinite(matrices)):
        raise ValueError("`transitions` must be finite; did the model diverge? See `Record.result`.")
    eigenvalues = jnp.linalg.eigvals(matrices)
    square = eigenvalues.real**2 + eigenvalues.imag**2
    is_zero, decays = square <= zero**2, square < 1
    log_size = jnp.log(jnp.where(decays & ~is_zero, square, 0.5)) / 2
    timescales = jnp.where(
        is_zero, jnp.nan, jnp.where(decays, -time_step / log_size, jnp.where(jnp.isnan(square), jnp.nan, jnp.inf))
    )
    real = jnp.where(is_zero, 1.0, eigenvalues.real)
    frequencies = jnp.arctan2(jnp.abs(eigenvalues.imag), real) / (2 * jnp.pi * time_step)
    return Spectrum(eigenvalues, timescales, jnp.where(is_zero, jnp.nan, frequencies), is_zero)


def fit_transitions(
    latents: Float[AnyArray, "time latents"],
    regimes: Num[AnyArray, " time"] | None = None,
    *,
    trials: Int[AnyArray, " time"] | None = None,
) -> tuple[Float[np.ndarray, "regimes latents latents"], Float[np.ndarray, "regimes latents"]]:
    """The affine map from one time step to the next that fits best, one for each regime, in ascending order of label.

    Only steps with both ends in the regime and in one trial count. (The published analysis concatenates the time steps
    of a regime and so fits jumps across the gaps.)

    **Returns:** matrices and offsets.

    **Raises:** `ValueError` for a regime with fewer steps than unknowns, naming it.
    """
    values = to_float64(latents, "latents")
    regimes = np.zeros(len(values), int) if regimes is None else np.asarray(regimes)
    trials = np.zeros(len(values), int) if trials is None else np.asarray(trials)
    stays = (regimes[:-1] == regimes[1:]) & (trials[:-1] == trials[1:])
    fits = []
    for regime in np.unique(regimes):
        is_step = stays & (regimes[:-1] == regime)
        if is_step.sum() <= values.shape[1] + 1:
            raise ValueError(
                f"`regimes`: {is_step.sum()} steps within regime {regime} are too few to fit {values.shape[1]} latents."
            )
        fits.append(affine_fit(values[:-1][is_step], values[1:][is_step]))
    return np.stack([matrix for matrix, _ in fits]), np.stack([offset for _, offset in fits])
