"""Starting values from the data: principal axes for the decoder, local linear fits for the components."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ._decoders import LinearDecoder
from ._likelihoods import Gaussian
from ._model import TiDHy
from ._transitions import FullRankTransition


def initialize(
    model: TiDHy,
    observations: Float[Array | np.ndarray, "sequences time observations"],
    *,
    segment_length: int = 40,
    ridge: float = 1.0,
    num_rounds: int = 0,
    num_restarts: int = 20,
    key: PRNGKeyArray,
) -> TiDHy:
    r"""The same model, started near the data instead of at random.

    The decoder becomes the first principal axes, with one scale so that latents have unit variance on average. Each
    component becomes the least-squares transition of one random segment, drawn towards that of all the data by `ridge`,
    and divided by the sum of the mixture weights at a context of zero: the components then differ as the recording
    does, and the first prediction is that of a linear model. From a random start the first updates push mixture weights
    into saturation.

    With `num_rounds` the segments' fits are refined first: every time step goes to the component that predicts it best,
    every component is fitted to its time steps, and so on (clusterwise linear regression, Späth, Computing 22, 1979);
    the best of several restarts is kept. Training then uses all components where it would settle on one or two.

    **Arguments:**

    - `observations`: complete recordings, in the units that the model will be trained in.
    - `segment_length`: time steps per segment, about as long as a regime lasts.
    - `ridge`: weight of the global fit, in time steps of evidence.
    - `num_rounds`: of assigning time steps and refitting, about 30 where regimes differ by more than the noise.
    - `num_restarts`: from other segments; only with rounds.

    **Raises:** `ValueError` unless the decoder is linear, the likelihood Gaussian, the transition full-rank, the
    recordings are longer than a segment and no channel is constant.
    """
    observations, transition = jnp.asarray(observations), model.transition
    if not (
        isinstance(model.decoder, LinearDecoder)
        and isinstance(model.likelihood, Gaussian)
        and isinstance(transition, FullRankTransition)
    ):
        raise ValueError("`model` must have a LinearDecoder, a Gaussian likelihood and a FullRankTransition.")
    num_sequences, time, num_channels = observations.shape
    if num_rounds < 0 or num_restarts < 1:
        raise ValueError(
            f"`num_rounds` must not be negative and `num_restarts` at least 1; got {num_rounds} and {num_restarts}."
        )
    if time <= segment_length:
        raise ValueError(f"`segment_length` must be less than the {time} time steps; got {segment_length}.")
    if num_channels < model.latent_size:
        raise ValueError(
            f"`model` has {model.latent_size} latents, more than the {num_channels} channels that would determine them."
        )
    if not isinstance(observations, Tracer):
        check_channels(observations)
    flat = jnp.reshape(observations, (-1, num_channels))
    center = jnp.mean(flat, axis=0)
    _, singular, axes = jnp.linalg.svd(flat - center[None], full_matrices=False)
    axes = axes[: model.latent_size]
    # One scale for all axes: those that hold only noise then stay small.
    scale = jnp.sqrt(jnp.mean(singular[: model.latent_size] ** 2) / flat.shape[0])
    latents = (observations - center[None, None]) @ (axes / scale).T

    ones = jnp.ones((*latents.shape[:2], 1), latents.dtype)
    inputs, targets = jnp.concatenate([latents, ones], axis=-1)[:, :-1], latents[:, 1:]
    if transition.offsets is None:
        inputs = inputs[..., :-1]
    width = inputs.shape[-1]
    everything = _fit(jnp.reshape(inputs, (-1, width)), jnp.reshape(targets, (-1, model.latent_size)), 0.0, 1e-3)

    def segment(sequence: Int[Array, ""], start: Int[Array, ""]) -> Float[Array, "inputs outputs"]:
        corner = (sequence, start, 0)
        part = jax.lax.dynamic_slice(inputs, corner, (1, segment_length, width))[0]
        after = jax.lax.dynamic_slice(targets, corner, (1, segment_length, model.latent_size))[0]
        return _fit(part, after, everything, ridge)

    steps = jnp.reshape(inputs, (-1, width)), jnp.reshape(targets, (-1, model.latent_size))

    def begin(key: PRNGKeyArray) -> Float[Array, "components inputs outputs"]:
        sequence_key, start_key = jr.split(key)
        sequences = jr.randint(sequence_key, (model.num_components,), 0, num_sequences)
        starts = jr.randint(start_key, (model.num_components,), 0, time - segment_length)
        return jax.vmap(segment)(sequences, starts)

    def refine(key: PRNGKeyArray) -> tuple[Float[Array, ""], Float[Array, "components inputs outputs"]]:
        def improve(_, fits: Float[Array, "components inputs outputs"]) -> Float[Array, "components inputs outputs"]:
            return _refit(fits, *steps, everything, ridge)

        fits = jax.lax.fori_loop(0, num_rounds, improve, begin(key))
        return jnp.sum(jnp.min(_errors(fits, *steps), axis=0)), fits

    if num_rounds:
        errors, refined = jax.lax.map(refine, jr.split(key, num_restarts))
        fits = refined[jnp.argmin(errors)]
    else:
        fits = begin(key)
    total = jnp.sum(model.mixture(jnp.zeros(model.context_size, model.dtype))[: model.num_components])
    fits = fits / jnp.maximum(total, 0.1)

    model = eqx.tree_at(
        lambda m: (m.decoder.linear.weight, m.decoder.linear.bias, m.transition.basis),
        model,
        (axes.T * scale, center, jnp.swapaxes(fits[:, : model.latent_size], 1, 2)),
    )
    if transition.offsets is None:
        return model
    return eqx.tree_at(lambda m: m.transition.offsets, model, fits[:, -1])


def _errors(
    fits: Float[Array, "components inputs outputs"],
    inputs: Float[Array, "steps inputs"],
    targets: Float[Array, "steps outputs"],
) -> Float[Array, "components steps"]:
    """Squared error of every component's prediction."""
    return jax.vmap(lambda fit: jnp.sum((targets - inputs @ fit) ** 2, axis=-1))(fits)


def _refit(
    fits: Float[Array, "components inputs outputs"],
    inputs: Float[Array, "steps inputs"],
    targets: Float[Array, "steps outputs"],
    center: Float[Array, "inputs outputs"],
    ridge: float,
) -> Float[Array, "components inputs outputs"]:
    """Each component fitted to the steps that it predicts best, drawn towards `center`."""
    owner = jnp.argmin(_errors(fits, inputs, targets), axis=0)

    def refit(component: Int[Array, ""]) -> Float[Array, "inputs outputs"]:
        own = jnp.where((owner == component)[:, None], inputs, 0.0)
        return _fit(own, targets, center, ridge)

    return jax.vmap(refit)(jnp.arange(fits.shape[0]))


def check_channels(observations: Float[Array, "*axes observations"]) -> None:
    """**Raises:** `ValueError` naming the channels that never change: they say nothing about dynamics."""
    flat = jnp.reshape(observations, (-1, observations.shape[-1]))
    constant = [int(n) for n in jnp.flatnonzero(jnp.ptp(flat, axis=0) == 0)]
    if constant:
        raise ValueError(f"`observations` has channels of zero variance: {constant}. Leave them out.")


def _fit(
    inputs: Float[Array, "steps inputs"],
    targets: Float[Array, "steps outputs"],
    center: Float[Array, "inputs outputs"] | float,
    ridge: float,
) -> Float[Array, "inputs outputs"]:
    gram = inputs.T @ inputs + ridge * jnp.eye(inputs.shape[1], dtype=inputs.dtype)
    return jnp.linalg.solve(gram, inputs.T @ targets + ridge * center)
