"""The model: parameters only."""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._decoders import AbstractDecoder, LinearDecoder, MLPDecoder
from ._hypernetwork import Hypernetwork
from ._likelihoods import AbstractLikelihood, Gaussian
from ._priors import AbstractContextPrior, LearnedPrior, RandomWalk
from ._transitions import AbstractTransition, FullRankTransition, LowRankTransition
from ._types import RealScalar


class TiDHy(eqx.Module):
    r"""Timescale demixing via hypernetworks (Abe & Brunton, bioRxiv 2025).

    $\hat x_t = g(r_t)$, $\bar r_t = \sum_m w_m(h_t) V_m r_{t-1} + b(h_t) \odot \beta$: fast latents $r$ move by a
    mixture of linear dynamics whose weights a hypernetwork computes from slow context latents $h$. Nothing about
    inference, optimisation or random numbers lives here: `Inference` and `TiDHyLoss` take the model as an argument.
    """

    decoder: AbstractDecoder
    hypernetwork: Hypernetwork
    transition: AbstractTransition
    prior: AbstractContextPrior | None
    likelihood: AbstractLikelihood
    latent_size: int = eqx.field(static=True)
    context_size: int = eqx.field(static=True)
    observation_size: int = eqx.field(static=True)

    def __init__(
        self,
        decoder: AbstractDecoder,
        hypernetwork: Hypernetwork,
        transition: AbstractTransition,
        *,
        prior: AbstractContextPrior | None = None,
        likelihood: AbstractLikelihood | None = None,
    ):
        """**Raises:** `ValueError` if the parts do not fit each other."""
        basis = eqx.filter_eval_shape(lambda t: t.transition_basis, transition)
        num_components, latent_size = basis.shape[:2]
        context_size = int(hypernetwork.mlp.first.in_features)
        outputs = eqx.filter_eval_shape(hypernetwork, jax.ShapeDtypeStruct((context_size,), basis.dtype)).shape[0]
        if outputs != num_components + transition.gain_size or hypernetwork.num_components != num_components:
            raise ValueError(
                f"`hypernetwork` must return {num_components} mixture weights and {transition.gain_size} bias gains, "
                f"one per component (and per latent with a dynamic bias) of `transition`; got "
                f"{hypernetwork.num_components} and {outputs - hypernetwork.num_components}."
            )
        try:
            observation = eqx.filter_eval_shape(decoder, jax.ShapeDtypeStruct((latent_size,), basis.dtype))
        except (TypeError, ValueError) as error:
            raise ValueError(f"`decoder` must accept the {latent_size} latents of `transition`.") from error
        self.decoder = decoder
        self.hypernetwork = hypernetwork
        self.transition = transition
        self.prior = prior
        self.likelihood = Gaussian() if likelihood is None else likelihood
        self.latent_size = latent_size
        self.context_size = context_size
        self.observation_size = observation.shape[0]

    @property
    def num_components(self) -> int:
        """How many linear dynamics are mixed."""
        return self.hypernetwork.num_components

    @property
    def dtype(self) -> jnp.dtype:
        """The type of the parameters, which latents share."""
        return self.hypernetwork.mlp.first.weight.dtype

    def mixture(self, context_latents: Float[Array, " context"]) -> Float[Array, " weights_and_gains"]:
        """Mixture weights $w(h)$, followed by the bias gains $b(h)$ of a dynamic bias."""
        return self.hypernetwork(context_latents)

    def predict(
        self, latents: Float[Array, " latents"], context_latents: Float[Array, " context"]
    ) -> Float[Array, " latents"]:
        r"""The one-step prediction $\bar r = V(w(h))\, r + b(h) \odot \beta$."""
        return self.transition.columns(latents) @ self.mixture(context_latents)

    @classmethod
    def original(
        cls,
        observation_size: int,
        latent_size: int = 10,
        context_size: int = 5,
        num_components: int = 15,
        hidden_size: int = 50,
        *,
        version: Literal["torch", "nnx"] = "torch",
        nonlinear_decoder: bool = False,
        dynamic_bias: bool = False,
        low_rank: bool = False,
        context_decoder_size: int = 0,
        likelihood: AbstractLikelihood | None = None,
        key: PRNGKeyArray,
    ) -> "TiDHy":
        """The architecture as published.

        **Arguments:**

        - `version`: `"torch"`, or `"nnx"` for the later code, which squashes the context by tanh and uses a layer-norm
          epsilon of 1e-6. Its zero biases are not copied: they make inference blow up (see `NormedMLP`).
        - `dynamic_bias`, `low_rank`, `nonlinear_decoder`: the published variants; `low_rank` is the symmetric one.
        - `context_decoder_size`: hidden size of the learned context prior (`use_r2_decoder`); zero for none.
        """
        decoder_key, hypernetwork_key, transition_key, prior_key = jr.split(key, 4)
        norm_eps = 1e-5 if version == "torch" else 1e-6
        if nonlinear_decoder:
            decoder = MLPDecoder(latent_size, observation_size, hidden_size, norm_eps=norm_eps, key=decoder_key)
        else:
            decoder = LinearDecoder(latent_size, observation_size, key=decoder_key)
        if low_rank:
            transition = LowRankTransition(
                num_components, latent_size, symmetric=True, use_bias=dynamic_bias, key=transition_key
            )
        else:
            transition = FullRankTransition(num_components, latent_size, use_bias=dynamic_bias, key=transition_key)
        hypernetwork = Hypernetwork(
            context_size,
            num_components,
            hidden_size,
            gain_size=transition.gain_size,
            gain_activation=jax.nn.relu,
            use_final_bias=not dynamic_bias,
            squash=None if version == "torch" else jnp.tanh,
            norm_eps=norm_eps,
            key=hypernetwork_key,
        )
        prior = None
        if context_decoder_size:
            prior = LearnedPrior(latent_size, context_size, context_decoder_size, key=prior_key)
        return cls(decoder, hypernetwork, transition, prior=prior, likelihood=likelihood)

    @classmethod
    def recommended(
        cls,
        observation_size: int,
        latent_size: int = 8,
        context_size: int = 8,
        num_components: int = 8,
        hidden_size: int = 32,
        *,
        activation: Callable = jax.nn.softmax,
        context_precision: RealScalar = 0.1,
        likelihood: AbstractLikelihood | None = None,
        key: PRNGKeyArray,
    ) -> "TiDHy":
        """The architecture to start with: linear decoder, weights that sum to one, a stated slowness of the context.

        **Arguments:**

        - `activation`: of the mixture weights. Softmax cannot go silent. The published `jax.nn.relu` can: without noise
          all weights die for half of the seeds or more at Adam's 5e-3, those of `softplus` at 1e-2.
        - `context_precision`: pull of the context latents towards their value one step before.
        """
        decoder_key, hypernetwork_key, transition_key = jr.split(key, 3)
        return cls(
            LinearDecoder(latent_size, observation_size, key=decoder_key),
            Hypernetwork(
                context_size,
                num_components,
                hidden_size,
                activation=activation,
                squash=jnp.tanh,
                final_bias_lift=0.5,
                key=hypernetwork_key,
            ),
            FullRankTransition(num_components, latent_size, key=transition_key),
            prior=RandomWalk(context_precision),
            likelihood=likelihood,
        )
