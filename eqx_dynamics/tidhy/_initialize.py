"""Starting values from the data: principal axes for the decoder, local linear fits for the components."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ._clusterwise import fit_affine, flatten, harden, soften
from ._decoders import LinearDecoder
from ._hypernetwork import Hypernetwork
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
    persistence: float = 0.0,
    num_lags: int = 1,
    context_gain: float = 0.0,
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
    the best of several restarts is kept. Training then uses all components where it would settle on one or two. Where
    one step does not tell two components apart, `persistence` lets neighbouring steps decide together (Hamilton,
    Econometrica 57, 1989). With `num_lags` the latents also hold the time steps before, which the decoder does not
    show: what those tell of a state that one time step does not determine is there from the start.

    **Arguments:**

    - `observations`: complete recordings, in the units that the model will be trained in.
    - `segment_length`: time steps per segment, about as long as a regime lasts.
    - `ridge`: weight of the global fit, in time steps of evidence.
    - `num_rounds`: of assigning time steps and refitting, about 30 where regimes differ by more than the noise.
    - `num_restarts`: from other segments; only with rounds.
    - `persistence`: probability that a time step has the component of the step before, about one minus the inverse
      of the time that a regime lasts; zero judges every step alone. Only with rounds.
    - `num_lags`: the first `latent_size / num_lags` latents are principal coordinates, the next ones those of the time
      step before, and so on. Meant for training with gradients through time (`Unrolled`).
    - `context_gain`: if positive, the last layer of the hypernetwork is fitted so that the pre-activation of weight $m$
      is about `context_gain` $\tanh(h_m)$ for contexts of unit size; else it is left as it is.

    **Raises:** `ValueError` unless the decoder is linear, the likelihood Gaussian, the transition full-rank, the
    recordings are complete and longer than a segment and no channel is constant.
    """
    observations, transition = jnp.asarray(observations), model.transition
    if not (
        isinstance(model.decoder, LinearDecoder)
        and isinstance(model.likelihood, Gaussian)
        and isinstance(transition, FullRankTransition)
    ):
        raise ValueError("`model` must have a LinearDecoder, a Gaussian likelihood and a FullRankTransition.")
    num_sequences, time, num_channels = observations.shape
    if num_channels != model.observation_size:
        raise ValueError(
            f"`observations` must have the {model.observation_size} channels of `model`; got {num_channels}."
        )
    if num_rounds < 0 or num_restarts < 1:
        raise ValueError(
            f"`num_rounds` must not be negative and `num_restarts` at least 1; got {num_rounds} and {num_restarts}."
        )
    if not 0 <= persistence < 1:
        raise ValueError(f"`persistence` must lie in [0, 1); got {persistence}.")
    if num_lags < 1 or model.latent_size % num_lags:
        raise ValueError(f"`num_lags` must divide the {model.latent_size} latents; got {num_lags}.")
    num_axes, num_steps = model.latent_size // num_lags, time - num_lags
    if num_steps < segment_length:
        raise ValueError(f"`segment_length` must be less than the {time} time steps; got {segment_length}.")
    if num_channels < num_axes:
        raise ValueError(
            f"`model` has {num_axes} latents per lag, more than the {num_channels} channels that would determine them."
        )
    observations = check_channels(observations)
    flat = flatten(observations)
    center = jnp.mean(flat, axis=0)
    _, singular, axes = jnp.linalg.svd(flat - center[None], full_matrices=False)
    axes = axes[:num_axes]
    # One scale for all axes: those that hold only noise then stay small.
    scale = jnp.sqrt(jnp.mean(singular[:num_axes] ** 2) / flat.shape[0])
    latents = (observations - center[None, None]) @ (axes / scale).T

    # The time step before a target first, then those before it, then a constant.
    before = [latents[:, num_lags - 1 - lag : time - 1 - lag] for lag in range(num_lags)]
    if transition.offsets is not None:
        before.append(jnp.ones((num_sequences, num_steps, 1), latents.dtype))
    inputs, targets = jnp.concatenate(before, axis=-1), latents[:, num_lags:]
    everything = fit_affine(flatten(inputs), flatten(targets), 0.0, 1e-3)

    def segment(sequence: Int[Array, ""], start: Int[Array, ""]) -> Float[Array, "inputs outputs"]:
        corner = (sequence, start, 0)
        part = jax.lax.dynamic_slice(inputs, corner, (1, segment_length, inputs.shape[-1]))[0]
        after = jax.lax.dynamic_slice(targets, corner, (1, segment_length, num_axes))[0]
        return fit_affine(part, after, everything, ridge)

    def begin(key: PRNGKeyArray) -> Float[Array, "components inputs outputs"]:
        sequence_key, start_key = jr.split(key)
        sequences = jr.randint(sequence_key, (model.num_components,), 0, num_sequences)
        starts = jr.randint(start_key, (model.num_components,), 0, num_steps - segment_length + 1)
        return jax.vmap(segment)(sequences, starts)

    def refine(key: PRNGKeyArray) -> tuple[Float[Array, ""], Float[Array, "components inputs outputs"]]:
        if persistence:
            return soften(begin(key), inputs, targets, everything, ridge, num_rounds, persistence)
        return harden(begin(key), inputs, targets, everything, ridge, num_rounds)

    if context_gain > 0:
        network = _tie(model.hypernetwork, model.context_size, context_gain, jr.fold_in(key, 1))
        model = eqx.tree_at(lambda m: m.hypernetwork, model, network)
    if num_rounds:
        errors, refined = jax.lax.map(refine, jr.split(key, num_restarts))
        fits = refined[jnp.argmin(errors)]
    else:
        fits = begin(key)
    total = jnp.maximum(jnp.sum(model.mixture(jnp.zeros(model.context_size, model.dtype))[: model.num_components]), 0.1)

    hidden = model.latent_size - num_axes
    remember = jnp.broadcast_to(jnp.eye(hidden, model.latent_size), (model.num_components, hidden, model.latent_size))
    basis = jnp.concatenate([jnp.swapaxes(fits[:, : model.latent_size], 1, 2), remember], axis=1) / total
    model = eqx.tree_at(
        lambda m: (m.decoder.linear.weight, m.decoder.linear.bias, m.transition.basis),
        model,
        (jnp.pad(axes.T * scale, ((0, 0), (0, hidden))), center, basis),
    )
    if transition.offsets is None:
        return model
    return eqx.tree_at(lambda m: m.transition.offsets, model, jnp.pad(fits[:, -1] / total, ((0, 0), (0, hidden))))


def _tie(network: Hypernetwork, context_size: int, gain: float, key: PRNGKeyArray) -> Hypernetwork:
    """The last layer by least squares, over contexts of unit size."""
    mlp, count = network.mlp, network.num_components
    if context_size < count or mlp.third.bias is None or mlp.second is None:
        raise ValueError(
            f"`context_gain` needs a context latent for each of the {count} components and a hypernetwork with a final "
            f"bias; got {context_size} context latents."
        )
    last = eqx.tree_at(
        lambda m: (m.weight, m.bias),
        mlp.third,
        (jnp.eye(mlp.second.out_features, dtype=mlp.third.weight.dtype), jnp.zeros(mlp.second.out_features)),
    )
    body = eqx.tree_at(lambda m: m.third, mlp, last)
    contexts = jr.normal(key, (4096, context_size))
    seen = contexts if network.squash is None else jax.vmap(network.squash)(contexts)
    features = jnp.concatenate([jax.vmap(body)(seen), jnp.ones((len(contexts), 1))], axis=-1)
    found = fit_affine(features, gain * jnp.tanh(contexts[:, :count]), 0.0, 0.1).T
    weight, bias = mlp.third.weight.at[:count].set(found[:, :-1]), mlp.third.bias.at[:count].set(found[:, -1])
    return eqx.tree_at(lambda n: (n.mlp.third.weight, n.mlp.third.bias), network, (weight, bias))


def check_channels(observations: Float[Array, "*axes observations"]) -> Float[Array, "*axes observations"]:
    """**Raises:** `ValueError` for values that are not finite, and naming the channels that never change: they say
    nothing about dynamics; a run-time error under `jax.jit`."""
    flat = flatten(observations)
    is_constant, is_finite = jnp.ptp(flat, axis=0) == 0, jnp.all(jnp.isfinite(flat))
    incomplete = "`observations` must be finite: pass recordings, or windows of them, where nothing is missing."
    if isinstance(observations, Tracer):
        observations = eqx.error_if(observations, ~is_finite, incomplete)
        return eqx.error_if(observations, jnp.any(is_constant), "`observations` has channels of zero variance.")
    if not is_finite:
        raise ValueError(incomplete)
    if np.any(is_constant):
        constant = np.flatnonzero(is_constant).tolist()
        raise ValueError(f"`observations` has channels of zero variance: {constant}. Leave them out.")
    return observations
