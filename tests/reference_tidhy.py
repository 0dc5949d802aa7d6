"""Checks of TiDHy against numbers that the original implementations computed, stored in `.npz` files.

`cases(npz)` yields `(name, check)` for every convergent case of a file of the format described in
`tests/reference/PROVENANCE.md`; a check names what differs by more than `RTOL`.
"""

import functools as ft
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax

from eqx_dynamics import tidhy, training


# Relative to the largest entry of each array. The same algorithm in the same precision differs by rounding alone,
# amplified by up to 200 iterations; the numbers are float64.
RTOL = 1e-8

# What is compared, ours, the original's.
Comparison = tuple[str, Any, Any]


def cases(npz: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """All checks of one file, by name; a check returns what differs."""
    meta = json.loads(str(npz["__meta__"]))
    is_torch = "torch" in meta
    for name, settings in meta["cases"].items():
        if f"{name}/w0/temporal" in npz:
            yield f"{name}/three_steps", ft.partial(_in_float64, _check_training, npz, name, settings)
        else:
            make = _torch_case if is_torch else _nnx_case
            yield name, ft.partial(_in_float64, _check_case, npz, name, settings, make)
    if "linear" in meta["cases"] and "cos_reg/between" in npz:  # the case whose weights they were computed for
        yield "regularizers", ft.partial(_in_float64, _check_regularizers, npz, meta["cases"]["linear"])


class _Case(NamedTuple):
    """One original model with its settings, in float64."""

    model: tidhy.TiDHy
    inference: tidhy.Inference
    evaluation: tidhy.Inference
    observations: jax.Array
    initial_context: jax.Array | None
    evaluation_context: jax.Array | None


def _in_float64(check: Callable[..., Iterator[Comparison]], *args: Any) -> list[str]:
    with jax.enable_x64(True):
        compared = list(check(*args))
    assert compared, "a case must have something to compare"
    return [problem for comparison in compared if (problem := _difference(*comparison))]


def _check_case(
    npz: Mapping[str, np.ndarray], name: str, settings: dict[str, Any], make: Callable
) -> Iterator[Comparison]:
    arrays = _under(npz, f"{name}/")
    case = make(npz, name, settings)
    num_steps = arrays["inf/trace/r"].shape[0] if "inf/trace/r" in arrays else 0
    given = {key: jnp.asarray(arrays[f"inf/in/{key}"]) for key in ("r_p", "r2_p")}
    given["x"] = jnp.asarray(arrays["inf/in/x"]) if "inf/in/x" in arrays else case.observations[:, 1]
    computed = _compute(case, given, num_steps)
    if settings.get("grad_norm_inf"):
        # From zero latents the first task's size equals its target up to rounding, whose sign then steers the weights:
        # of such a case only the inference from given latents is defined.
        computed = {key: value for key, value in computed.items() if key.split("/")[0] not in _STEERED_BY_ROUNDING}
    expected = None if "gradient" not in computed else tidhy.load_original(case.model, _under(arrays, "grad/"))
    if expected is not None:
        yield from _leaves("gradient", computed.pop("gradient"), expected)
    for key, got in computed.items():
        want = arrays[key]
        if key.startswith("eval/") and key.split("/")[1] in _UNDEFINED_AT_START:
            got, want = got[:, 1:], want[:, 1:]  # the originals fill the first step by conventions of their own
        if key.startswith("forward/") and "loss" in key and np.ndim(want) == 1:
            want = want.mean()
        if key in ("inf/n_iter", "inf_first_step/n_iter"):
            want = np.broadcast_to(want, got.shape)
        yield key, got, want


_STEERED_BY_ROUNDING = ("gradient", "forward", "eval")
_UNDEFINED_AT_START = ("R2_hat", "R_bar", "I_bar", "Ut", "W", "b", "spatial_loss_rbar", "temp_loss")


@eqx.filter_jit
def _compute(case: _Case, given: dict[str, jax.Array], trace_steps: int) -> dict[str, Any]:
    """Everything that a reference file holds about one case, under its names, in one compiled program."""
    model, inference, observations = case.model, case.inference, case.observations
    is_torch = isinstance(inference.start, tidhy.ZeroStart)
    out: dict[str, Any] = {}

    mixture = jax.vmap(model.mixture)(given["r2_p"])
    out["temporal_prediction/w"] = mixture[:, : model.num_components]
    out["temporal_prediction/V_t"] = jax.vmap(model.transition.combine)(mixture)
    out["temporal_prediction/r_hat"] = jax.vmap(model.predict)(given["r_p"], given["r2_p"])
    if is_torch:
        out["spatial_decoder/out"] = jax.vmap(model.decoder)(given["r_p"])

    before = tidhy.InferenceState(tidhy.LatentState(given["r_p"], given["r2_p"]), jnp.ones(observations.shape[0], bool))
    one, _ = tidhy.infer(model, given["x"][:, None], inference, state=before)
    out["inf/out/r"], out["inf/out/r2"], out["inf/n_iter"] = (
        one.latents[:, 0],
        one.context_latents[:, 0],
        one.num_steps[:, 0],
    )
    if trace_steps:
        trace = tidhy.inference_trace(model, given["x"], inference, state=before, num_steps=trace_steps)
        out["inf/trace/r"] = jnp.moveaxis(trace.latents, 0, 1)
        out["inf/trace/r2"] = jnp.moveaxis(trace.context_latents, 0, 1)
    if not is_torch:
        out["inf/converged"] = (one.result == tidhy.RESULTS.successful)[:, 0]

    def loss(model: tidhy.TiDHy) -> tuple[jax.Array, Any]:
        loss_fn = tidhy.TiDHyLoss(inference)
        inferred = loss_fn.infer(model, observations, initial_context=case.initial_context)
        return loss_fn.total(model, inferred), (inferred.terms(model), inferred.solution)

    (total, (terms, solution)), out["gradient"] = eqx.filter_value_and_grad(loss, has_aux=True)(model)
    out["forward/loss"] = total
    out["forward/spatial_loss_rhat"] = terms.reconstruction
    out["forward/spatial_loss_rbar"] = terms.prediction
    out["forward/temp_loss"] = terms.temporal
    if is_torch:
        out["forward/r2_losses"] = terms.prior
        out["forward/r2_final"] = solution.context_latents[:, -1]
        out["forward/n_iter_total"] = jnp.sum(jnp.max(solution.num_steps[:, 1:], axis=0))
    else:
        out["forward/R"], out["forward/R2"] = solution.latents, solution.context_latents
        out["inf_first_step/r"], out["inf_first_step/r2"] = solution.latents[:, 0], solution.context_latents[:, 0]
        out["inf_first_step/n_iter"] = solution.num_steps[:, 0]

    solution, _ = tidhy.infer(model, observations, case.evaluation, initial_context=case.evaluation_context)
    if is_torch:
        out["inf_first_step/r"] = solution.latents[:, 0]
    # The originals predict without the learned prior.
    plain = eqx.tree_at(lambda m: m.prior, model, None, is_leaf=lambda x: x is None)
    rec = tidhy.describe(plain, observations, solution, initial_context=case.evaluation_context)
    out["eval/R_hat"], out["eval/R2_hat"], out["eval/R_bar"] = rec.latents, rec.context_latents, rec.predicted_latents
    out["eval/I_hat"], out["eval/I_bar"] = rec.reconstructions, rec.predicted_observations
    out["eval/Ut"] = rec.predicted_transitions
    out["eval/W"] = rec.weights if is_torch else rec.predicted_weights
    losses = (rec.reconstruction_loss, rec.prediction_loss, rec.temporal_loss)
    losses = losses if is_torch else tuple(jnp.sum(loss, axis=-1) for loss in losses)
    out["eval/spatial_loss_rhat"], out["eval/spatial_loss_rbar"], out["eval/temp_loss"] = losses
    if is_torch:
        per_sequence = 1 / observations.shape[0]
        out["eval/avg_spatial_loss_rhat"] = per_sequence * jnp.sum(rec.reconstruction_loss)
        out["eval/avg_temp_loss"] = per_sequence * inference.objective.temporal * jnp.sum(rec.temporal_loss[:, 1:])
        if model.transition.bias is not None:
            out["eval/b"] = rec.gains
    else:
        out["eval/spatial_loss_rhat_avg"] = jnp.mean(losses[0])
        out["eval/n_iter"] = rec.num_steps
    return out


def _torch_case(npz: Mapping[str, np.ndarray], name: str, s: dict[str, Any]) -> _Case:
    model = tidhy.load_original(torch_model(s), _under(npz, f"{name}/w/"))
    objective = tidhy.Objective(
        temporal=float(s["temp_weight"]),
        l1_latents=float(s["L1_inf_r"]),
        l1_context=float(s["L1_inf_r2"]),
        l1_weights=float(s["L1_inf_w"]),
    )
    solver = torch_solver(s)
    start = tidhy.AdamWStart(s["lr_r"], s["max_iter"], s["tol"])
    return _Case(
        model,
        tidhy.Inference(solver, objective, tidhy.ZeroStart()),
        tidhy.Inference(solver, objective, start),
        jnp.asarray(npz["X"]),
        None,
        None,
    )


def torch_model(s: dict[str, Any]) -> tidhy.TiDHy:
    """The architecture of a PyTorch case, untrained."""
    return tidhy.TiDHy.original(
        s["input_dim"],
        s["r_dim"],
        s["r2_dim"],
        s["mix_dim"],
        s["hyper_hid_dim"],
        nonlinear_decoder=s["nonlin_decoder"],
        dynamic_bias=s["dyn_bias"],
        low_rank=s["low_rank_temp"],
        context_decoder_size=s["r2_decoder_hid_dim"] if s["use_r2_decoder"] else 0,
        key=jr.key(0),
    )


def torch_solver(s: dict[str, Any]) -> tidhy.SgdNesterov:
    """The inner solver of a PyTorch case."""
    return tidhy.SgdNesterov(
        learning_rate=float(s["lr_r"]),
        context_learning_rate=float(s["lr_r2"]),
        max_steps=s["max_iter"],
        tolerance=float(s["tol"]),
        num_halvings=10,
        threshold=float(s["lmda_r"]),
        context_threshold=float(s["lmda_r2"]),
        absolute_below=0.0,
        prior_at_iterate=True,
        coupling=tidhy.Coupling("batch_mean", "batch" if s["batch_converge"] else "all_sequences"),
        balance=tidhy.InnerGradNorm(s["grad_alpha_inf"], s["lr_weights_inf"]) if s["grad_norm_inf"] else None,
    )


_SATURATIONS = {
    None: lambda scale: None,
    "none": lambda scale: None,
    "sigmoid": lambda scale: jax.nn.sigmoid,
    "shifted_sigmoid": lambda scale: tidhy.ShiftedSigmoid(),
    "tanh": lambda scale: jnp.tanh,
    "scaled_tanh": tidhy.ScaledTanh,
    "softsign": lambda scale: jax.nn.soft_sign,
    "scaled_softsign": tidhy.ScaledSoftsign,
    "hardtanh": tidhy.HardTanh,
}


def _nnx_case(npz: Mapping[str, np.ndarray], name: str, s: dict[str, Any]) -> _Case:
    is_bernoulli = s.get("loss_type") == "BCE"
    model = tidhy.TiDHy.original(
        s["input_dim"],
        s["r_dim"],
        s["r2_dim"],
        s["mix_dim"],
        s["hyper_hid_dim"],
        version="nnx",
        nonlinear_decoder=s.get("nonlin_decoder", False),
        likelihood=tidhy.Bernoulli(1e-10) if is_bernoulli else None,
        key=jr.key(0),
    )
    model = tidhy.load_original(model, _under(npz, f"{name}/w/"))
    smoothness = s.get("r2_temporal_smoothness_inf", 0.0)
    if smoothness:
        model = eqx.tree_at(lambda m: m.prior, model, tidhy.RandomWalk(smoothness), is_leaf=lambda x: x is None)
    objective = tidhy.Objective(
        temporal=float(s["temp_weight"]),
        l1_latents=float(s.get("L1_inf_r", 0.0)),
        l1_context=float(s.get("L1_inf_r2", 0.0)),
        l1_weights=float(s.get("L1_inf_w", 0.0)),
    )
    solver = tidhy.SgdNesterov(
        learning_rate=float(s["lr_r"]),
        context_learning_rate=float(s["lr_r2"]),
        max_steps=s["max_iter"],
        tolerance=float(s["tol"]),
        threshold=float(s.get("lmda_r", 0.0)),
        context_threshold=float(s.get("lmda_r2", 0.0)),
        saturation=_SATURATIONS[s.get("saturate_r_method")](s.get("saturate_r_scale", 5.0)),
        context_saturation=_SATURATIONS[s.get("saturate_r2_method")](s.get("saturate_r2_scale", 3.0)),
        sign_of_zero=1,
    )
    inference = tidhy.Inference(solver, objective, tidhy.JointStart(solver, s.get("clip_grad", 1.0)))
    return _Case(
        model,
        inference,
        inference,
        jnp.asarray(npz["X01" if is_bernoulli else "X"]),
        jnp.asarray(npz[f"{name}/r2_init"]),
        jnp.asarray(npz[f"{name}/eval/r2_init"]),
    )


def _check_regularizers(npz: Mapping[str, np.ndarray], settings: dict[str, Any]) -> Iterator[Comparison]:
    """Those of parameters; those of mixture weights were recorded for a random start that the file does not hold."""
    case = _nnx_case(npz, "linear", settings)
    solution, _ = tidhy.infer(case.model, case.observations, case.inference, initial_context=case.initial_context)
    orthogonality = tidhy.DecoderOrthogonality(1.0, normalized=True)
    value, gradient = eqx.filter_value_and_grad(orthogonality)(case.model, solution)
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jtu.tree_leaves(gradient)))
    yield "decoder orthogonality", value, npz["reg/lambda_decoder_ortho/value"]
    yield "gradient of the decoder orthogonality", norm, npz["reg/lambda_decoder_ortho/grad_norm"]
    within = tidhy.BasisSimilarity(1.0, within=True)(case.model, solution)
    yield "similarity of rows within components", within, npz["cos_reg/rows_within"]
    between = tidhy.BasisSimilarity(1.0)(case.model, solution)
    # A cosine may be near 0: compared with 1.
    yield "similarity between components", 1.0 + between, 1.0 + npz["cos_reg/between"]


def _check_training(npz: Mapping[str, np.ndarray], name: str, s: dict[str, Any]) -> Iterator[Comparison]:
    """Three steps of AdamW in three groups, with gradients, metrics and task weights."""
    model = tidhy.load_original(torch_model(s), _under(npz, f"{name}/w0/"))
    inference = tidhy.Inference(torch_solver(s), tidhy.Objective(temporal=float(s["temp_weight"])), tidhy.ZeroStart())
    similarity = (
        tidhy.BasisSimilarity(float(s["cos_eta"])),
        tidhy.HypernetworkOrthogonality(float(s["Orth_alpha_r2"])),
    )
    penalties = (
        tidhy.NuclearNorm(float(s["Lnuc_alpha"])),
        tidhy.BasisL1(float(s["L1_alpha"])),
        tidhy.HypernetworkL1(float(s["L1_alpha_W"])),
        tidhy.DecoderL1(float(s["L1_alpha_spat"])),
        tidhy.DecoderOrthogonality(float(s["Orth_alpha_spat"])),
    )
    if s["grad_norm"]:
        balance = tidhy.OriginalGradNorm(s["grad_alpha"], s["lr_weights"], s["weight_decay"])
        loss_fn = tidhy.BalancedLoss(tidhy.TiDHyLoss(inference), balance, temporal_regularizers=similarity)
        statistics = loss_fn.init_state()
    else:
        loss_fn, statistics = tidhy.TiDHyLoss(inference, (*similarity, *penalties)), None
    rates = {"decoder": s["learning_rate_s"], "transition": s["learning_rate_t"], "hypernetwork": s["learning_rate_h"]}
    clip = tidhy.clip_like_torch(float(s["clip_grad"]))
    groups = {group: optax.adamw(rate, weight_decay=s["weight_decay"]) for group, rate in rates.items()}
    step = training.make_step(loss_fn, training.optimizer_groups(groups), clip=clip)
    state = step.init(model, key=jr.key(0), statistics=statistics)
    observations = jnp.asarray(npz["X"])

    @eqx.filter_jit
    def advance(state: training.TrainState) -> tuple[Any, ...]:
        def loss(model: tidhy.TiDHy) -> jax.Array:
            if isinstance(loss_fn, tidhy.BalancedLoss):
                return loss_fn(model, observations, state.key, state.statistics)[0]
            return loss_fn(model, observations, state.key)[0]

        gradient, _ = clip.update(eqx.filter_grad(loss)(state.model), optax.EmptyState())
        return gradient, *step(observations, state)

    for epoch in (1, 2, 3):
        gradient, metrics, state = advance(state)
        want = tidhy.load_original(model, _under(npz, f"{name}/ep{epoch}/grad_at_step/"))
        yield from _leaves(f"gradient at step {epoch}", gradient, want)
        want = tidhy.load_original(model, _under(npz, f"{name}/w{epoch}/"))
        yield from _leaves(f"weights {epoch}", state.model, want)
        recorded = _under(npz, f"{name}/ep{epoch}/metric/")
        yield "reconstruction", metrics["reconstruction"], recorded["spatial_loss_rhat"]
        yield "prediction", metrics["prediction"], recorded["spatial_loss_rbar"]
        yield "temporal", metrics["temporal"], recorded["temp_loss"]
        if statistics is not None:
            yield "weighted loss", metrics["loss"], recorded["weighted_loss"]
            yield "task weights", state.statistics.weights, recorded["weights"]


def _leaves(what: str, got: Any, want: Any) -> Iterator[Comparison]:
    pairs = zip(
        jtu.tree_leaves_with_path(eqx.filter(got, eqx.is_inexact_array)),
        jtu.tree_leaves(eqx.filter(want, eqx.is_inexact_array)),
        strict=True,
    )
    for (path, one), other in pairs:
        yield f"{what}, {jtu.keystr(path)}", one, other


def _under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name[len(prefix) :]: arrays[name] for name in arrays if name.startswith(prefix)}


def _difference(what: str, got: Any, want: Any) -> str | None:
    """How two arrays differ, relative to the largest entry, if they do."""
    got, want = np.asarray(got, float), np.asarray(want, float)
    if got.shape != want.shape:
        return f"{what}: {got.shape} instead of {want.shape}"
    error = np.max(np.abs(got - want), initial=0.0) / max(np.max(np.abs(want), initial=0.0), 1e-12)
    return None if error <= RTOL else f"{what}: relative error {error:.2e}"  # NaN is a difference
