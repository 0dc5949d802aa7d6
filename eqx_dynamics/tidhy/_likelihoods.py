"""How observations relate to what the decoder returns: the decoder's output is always a natural, unbounded number."""

import abc
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float


class AbstractLikelihood(eqx.Module):
    """Elementwise negative log-likelihood of observations given a decoder output."""

    @abc.abstractmethod
    def nll(
        self, prediction: Float[Array, "*batch observations"], observations: Float[Array, "*batch observations"]
    ) -> Float[Array, "*batch observations"]:
        """Negative log-likelihood of every entry, without constants that do not depend on `prediction`."""

    @abc.abstractmethod
    def mean(self, prediction: Float[Array, "*batch observations"]) -> Float[Array, "*batch observations"]:
        """The expected observation, in the units of the data."""

    @abc.abstractmethod
    def invalid(self, observations: Float[Array, "*batch observations"]) -> Bool[Array, "*batch observations"]:
        """Entries that no prediction could produce; `requirement` says in words what they must be."""

    @property
    @abc.abstractmethod
    def requirement(self) -> str:
        """What valid observations are, for error messages."""


class Gaussian(AbstractLikelihood):
    r"""Squared error, $(\hat x - x)^2$: a Gaussian of variance one half."""

    def nll(self, prediction, observations):
        return (prediction - observations) ** 2

    def mean(self, prediction):
        return prediction

    def invalid(self, observations):
        return ~jnp.isfinite(observations)

    @property
    def requirement(self) -> str:
        return "finite numbers"


class Bernoulli(AbstractLikelihood):
    r"""Probabilities from logits $z$: $\mathrm{softplus}(z) - x z$.

    Computed from the logit: finite for every finite logit, unlike a cross-entropy of rounded probabilities. The
    published code adds `epsilon=1e-10` to probabilities inside the logarithms; leave it at zero for anything but
    parity.
    """

    epsilon: float = eqx.field(static=True, default=0.0)

    def nll(self, prediction, observations):
        if self.epsilon > 0:
            mean = self.mean(prediction)
            yes, no = jnp.log(mean + self.epsilon), jnp.log(1 - mean + self.epsilon)
            return -observations * yes - (1 - observations) * no
        return jax.nn.softplus(prediction) - observations * prediction

    def mean(self, prediction):
        return jax.nn.sigmoid(prediction)

    def invalid(self, observations):
        return ~((observations >= 0) & (observations <= 1))

    @property
    def requirement(self) -> str:
        return "probabilities in [0, 1]"


class Poisson(AbstractLikelihood):
    r"""Counts with rate $\lambda(z) > 0$: $\lambda - x \log \lambda$, with $\lambda = \mathrm{softplus}(z)$ or $e^z$.

    The rate goes through a link, so it is positive; a raw decoder output as a rate gives NaN as soon as it is negative.
    """

    link: Literal["softplus", "log"] = eqx.field(static=True, default="softplus")

    def nll(self, prediction, observations):
        return self.mean(prediction) - observations * self._log_rate(prediction)

    def mean(self, prediction):
        return jnp.exp(prediction) if self.link == "log" else jax.nn.softplus(prediction)

    def _log_rate(self, prediction: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        if self.link == "log":
            return prediction
        is_small = prediction < -30.0  # there log softplus(z) = z to rounding, and softplus(z) underflows
        safe = jnp.where(is_small, 0.0, prediction)
        return jnp.where(is_small, prediction, jnp.log(jax.nn.softplus(safe)))

    def invalid(self, observations):
        return ~((observations >= 0) & (observations == jnp.floor(observations)))

    @property
    def requirement(self) -> str:
        return "counts (non-negative whole numbers)"


def check_observations(
    likelihood: AbstractLikelihood,
    observations: Float[Array, "*batch observations"],
    mask: Bool[Array, "*batch observations"],
) -> Float[Array, "*batch observations"]:
    """Observations with masked entries set to zero; an error where an unmasked entry is impossible.

    **Raises:** `ValueError` at once for concrete arrays; a run-time error under `jax.jit`.
    """
    name = type(likelihood).__name__
    message = (
        f"`observations` must be {likelihood.requirement} for a {name} likelihood where they are not masked; got "
        "NaN, an infinity or another impossible value. Mark missing entries with `mask`, or choose the likelihood "
        "that fits the data."
    )
    observations = jnp.where(mask, observations, 0.0)
    is_invalid = jnp.any(likelihood.invalid(observations) & mask)
    if not isinstance(is_invalid, Tracer):
        if np.asarray(is_invalid):
            raise ValueError(message)
        return observations
    return eqx.error_if(observations, is_invalid, message)
