"""Clusterwise linear regression: which of several linear maps made each time step, and what they are."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._types import RealScalar


def fit_affine(
    inputs: Float[Array, "steps inputs"],
    targets: Float[Array, "steps outputs"],
    center: Float[Array, "inputs outputs"] | float,
    ridge: RealScalar,
    weights: Float[Array, " steps"] | None = None,
) -> Float[Array, "inputs outputs"]:
    """Least squares drawn towards `center`."""
    weighted = inputs if weights is None else inputs * weights[:, None]
    gram = weighted.T @ inputs + ridge * jnp.eye(inputs.shape[1], dtype=inputs.dtype)
    return jnp.linalg.solve(gram, weighted.T @ targets + ridge * center)


def harden(
    fits: Float[Array, "components inputs outputs"],
    inputs: Float[Array, "sequences time inputs"],
    targets: Float[Array, "sequences time outputs"],
    center: Float[Array, "inputs outputs"],
    ridge: RealScalar,
    num_rounds: int,
) -> tuple[Float[Array, ""], Float[Array, "components inputs outputs"]]:
    """Each time step goes to the component that predicts it best (Späth, Computing 22, 1979).

    **Returns:** what is left unexplained, and the fits.
    """
    x, y = flatten(inputs), flatten(targets)

    def errors(fits):
        return jax.vmap(lambda fit: jnp.sum((y - x @ fit) ** 2, axis=-1))(fits)

    def improve(_, fits):
        owner = jnp.argmin(errors(fits), axis=0)

        def refit(component: Int[Array, ""]) -> Float[Array, "inputs outputs"]:
            return fit_affine(x, y, center, ridge, (owner == component).astype(x.dtype))

        return jax.vmap(refit)(jnp.arange(fits.shape[0]))

    fits = jax.lax.fori_loop(0, num_rounds, improve, fits)
    return jnp.sum(jnp.min(errors(fits), axis=0)), fits


def soften(
    fits: Float[Array, "components inputs outputs"],
    inputs: Float[Array, "sequences time inputs"],
    targets: Float[Array, "sequences time outputs"],
    center: Float[Array, "inputs outputs"],
    ridge: RealScalar,
    num_rounds: int,
    persistence: RealScalar,
) -> tuple[Float[Array, ""], Float[Array, "components inputs outputs"]]:
    """Components that last: expectation maximisation with a Markov chain over components (Hamilton, Econometrica 1989).

    **Arguments:** `persistence`: probability that a time step has the component of the step before.

    **Returns:** the negative log-likelihood up to a constant, and the fits.
    """
    x, y = flatten(inputs), flatten(targets)
    residual = y - x @ center
    pooled = residual.T @ residual / y.shape[0]
    floor = 0.01 * jnp.mean(jnp.diagonal(pooled)) * jnp.eye(y.shape[1], dtype=y.dtype)
    count = fits.shape[0]
    leave = (1 - persistence) / max(count - 1, 1)
    switch = jnp.full((count, count), leave) + (persistence - leave) * jnp.eye(count, dtype=x.dtype)

    def judge(fits, covariances):
        def density(fit, covariance):
            error = targets - inputs @ fit
            distance = jnp.sum((error @ jnp.linalg.inv(covariance)) * error, axis=-1)
            return -0.5 * (distance + jnp.linalg.slogdet(covariance)[1])

        likelihoods = jax.vmap(density, out_axes=-1)(fits, covariances)
        return jax.vmap(lambda each: smooth(each, switch))(likelihoods)

    def improve(_, carry):
        def refit(weights):
            fit = fit_affine(x, y, center, ridge, weights)
            error = y - x @ fit
            return fit, (error * weights[:, None]).T @ error / (jnp.sum(weights) + 1) + floor

        return jax.vmap(refit, in_axes=1)(flatten(judge(*carry)[0]))

    start = fits, jnp.broadcast_to(pooled + floor, (count, *pooled.shape))
    fits, covariances = jax.lax.fori_loop(0, num_rounds, improve, start)
    return -jnp.sum(judge(fits, covariances)[1]), fits


def smooth(
    likelihoods: Float[Array, "time components"], switch: Float[Array, "components components"]
) -> tuple[Float[Array, "time components"], Float[Array, ""]]:
    """Probabilities of the components of a Markov chain given all time steps, and the log-likelihood of these."""

    def forward(belief, log_density):
        highest = jnp.max(log_density)
        joint = (belief @ switch) * jnp.exp(log_density - highest)
        total = jnp.sum(joint)
        belief = joint / total
        return belief, (belief, jnp.log(total) + highest)

    def backward(after, belief):
        joint = switch * belief[:, None]
        after = (joint / (jnp.sum(joint, axis=0)[None] + 1e-30)) @ after
        return after, after

    count = switch.shape[0]
    last, (beliefs, evidence) = jax.lax.scan(forward, jnp.full(count, 1 / count, switch.dtype), likelihoods)
    _, smoothed = jax.lax.scan(backward, last, beliefs[:-1], reverse=True)
    return jnp.concatenate([smoothed, last[None]]), jnp.sum(evidence)


def flatten(values: Float[Array, "sequences time features"]) -> Float[Array, "steps features"]:
    """All time steps of all sequences."""
    return jnp.reshape(values, (-1, values.shape[-1]))
