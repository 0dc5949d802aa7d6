"""Checks of TiDHy against numbers that the original implementations computed, stored in `.npz` files.

`cases(npz)` yields `(name, check)` for every convergent case of a file of the format described in
`tests/reference/PROVENANCE.md`; a check raises `AssertionError` where a number differs by more than `RTOL`.
"""

import functools as ft
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np

from eqx_dynamics import tidhy


# Relative to the largest entry of each array. The same algorithm in the same precision differs by rounding alone,
# amplified by up to 200 iterations; the numbers are float64.
RTOL = 1e-8

# Non-convergent by design: its inner loop is balanced by gradients of gradients and stops at its iteration limit.
SKIPPED = ("gradnorm_inf",)


def cases(npz: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Callable[[], None]]]:
    """All checks of one file, by name."""
    meta = json.loads(str(npz["__meta__"]))
    names = [name for name in meta["cases"] if name not in SKIPPED]
    make = _torch_case if "torch" in meta else _nnx_case
    for name in names:
        if f"{name}/w0/temporal" in npz:
            yield f"{name}/three_steps", ft.partial(_check_training, npz, name, meta["cases"][name])
            continue
        case = _Lazy(ft.partial(make, npz, name, meta["cases"][name]))
        for check in _CHECKS:
            yield f"{name}/{check.__name__.removeprefix('_check_')}", _in_float64(ft.partial(_run, check, case))
    for name in _batch_sizes(npz):
        yield f"batch_dependence/{name}", _in_float64(ft.partial(_check_batch, npz, name, meta["cases"]["linear"]))
    if "torch" not in meta:
        yield "regularizers", _in_float64(ft.partial(_check_regularizers, npz, meta["cases"]["linear"]))


class _Lazy:
    """Builds a case at its first check."""

    def __init__(self, make: Callable):
        self.get = ft.cache(make)


class _Case(eqx.Module):
    """One original model with its settings, in float64."""

    model: tidhy.TiDHy
    inference: tidhy.Inference
    evaluation: tidhy.Inference
    observations: jax.Array
    initial_context: jax.Array | None
    evaluation_context: jax.Array | None
    arrays: dict = eqx.field(static=True)
    is_torch: bool = eqx.field(static=True)


def _run(check: Callable, case: _Lazy) -> None:
    check(case.get())


def _in_float64(check: Callable[[], None]) -> Callable[[], None]:
    def checked() -> None:
        with jax.enable_x64(True):
            check()

    return checked


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
        _under(npz, f"{name}/"),
        True,
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
        float(s["lr_r"]),
        float(s["lr_r2"]),
        max_steps=s["max_iter"],
        tolerance=float(s["tol"]),
        num_halvings=10,
        threshold=float(s["lmda_r"]),
        context_threshold=float(s["lmda_r2"]),
        absolute_below=0.0,
        prior_at_iterate=True,
        coupling=tidhy.Coupling("batch_mean", "batch" if s["batch_converge"] else "all_sequences"),
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
        float(s["lr_r"]),
        float(s["lr_r2"]),
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
        _under(npz, f"{name}/"),
        False,
    )


def _check_decoder_and_prediction(case: _Case) -> None:
    arrays = case.arrays
    latents, context = jnp.asarray(arrays["inf/in/r_p"]), jnp.asarray(arrays["inf/in/r2_p"])
    if "spatial_decoder/out" in arrays:
        close(jax.vmap(case.model.decoder)(latents), arrays["spatial_decoder/out"], "decoder")
    mixture = jax.vmap(case.model.mixture)(context)
    close(mixture[:, : case.model.num_components], arrays["temporal_prediction/w"], "weights")
    close(jax.vmap(case.model.transition.combine)(mixture), arrays["temporal_prediction/V_t"], "transition")
    close(jax.vmap(case.model.predict)(latents, context), arrays["temporal_prediction/r_hat"], "prediction")


def _check_one_inference(case: _Case) -> None:
    arrays, before = case.arrays, _given_state(case)
    observations = arrays["inf/in/x"] if case.is_torch else np.asarray(case.observations[:, 1])
    solution, _ = tidhy.infer(case.model, jnp.asarray(observations)[:, None], case.inference, state=before)
    close(solution.latents[:, 0], arrays["inf/out/r"], "latents")
    close(solution.context_latents[:, 0], arrays["inf/out/r2"], "context latents")
    np.testing.assert_array_equal(solution.num_steps[:, 0], np.broadcast_to(arrays["inf/n_iter"], (before.last.latents.shape[0],)))
    if "inf/converged" in arrays:
        is_converged = solution.result == tidhy.RESULTS.successful
        np.testing.assert_array_equal(is_converged[:, 0], arrays["inf/converged"])
    if not case.is_torch:
        first, _ = tidhy.infer(
            case.model, case.observations[:, :1], case.evaluation, initial_context=case.initial_context
        )
        close(first.context_latents[:, 0], arrays["inf_first_step/r2"], "first context latents")
        np.testing.assert_array_equal(first.num_steps[:, 0], arrays["inf_first_step/n_iter"])
    else:
        first, _ = tidhy.infer(case.model, case.observations[:, :1], case.evaluation)
    close(first.latents[:, 0], arrays["inf_first_step/r"], "first latents")


def _check_trace(case: _Case) -> None:
    arrays = case.arrays
    if "inf/trace/r" not in arrays:
        return
    trace = tidhy.inference_trace(
        case.model,
        jnp.asarray(arrays["inf/in/x"]),
        case.inference,
        state=_given_state(case),
        num_steps=int(arrays["inf/n_iter"]),
    )
    close(jnp.moveaxis(trace.latents, 0, 1), arrays["inf/trace/r"], "trace of the latents")
    close(jnp.moveaxis(trace.context_latents, 0, 1), arrays["inf/trace/r2"], "trace of the context latents")


def _given_state(case: _Case) -> tidhy.InferenceState:
    latents, context = jnp.asarray(case.arrays["inf/in/r_p"]), jnp.asarray(case.arrays["inf/in/r2_p"])
    return tidhy.InferenceState(tidhy.LatentState(latents, context), jnp.ones(latents.shape[0], bool))


def _check_losses_and_gradients(case: _Case) -> None:
    arrays = case.arrays
    loss_fn = tidhy.TiDHyLoss(case.inference)
    context = _zeros_or(case.initial_context, case)

    @eqx.filter_jit
    @ft.partial(eqx.filter_value_and_grad, has_aux=True)
    def loss(model: tidhy.TiDHy) -> tuple[jax.Array, Any]:
        inferred = loss_fn.infer(model, case.observations, initial_context=context)
        return loss_fn.total(model, inferred), (inferred.terms(model), inferred.solution)

    (total, (terms, solution)), gradient = loss(case.model)
    close(total, arrays["forward/loss"], "loss")
    close(terms.reconstruction, arrays["forward/spatial_loss_rhat"].mean(), "reconstruction loss")
    close(terms.prediction, arrays["forward/spatial_loss_rbar"].mean(), "prediction loss")
    close(terms.temporal, arrays["forward/temp_loss"].mean(), "temporal loss")
    if case.is_torch:
        if case.model.prior is not None:
            close(terms.prior, arrays["forward/r2_losses"], "prior loss")
        close(solution.context_latents[:, -1], arrays["forward/r2_final"], "final context latents")
        assert int(solution.num_steps[:, 1:].max(0).sum()) == arrays["forward/n_iter_total"]
    else:
        close(solution.latents, arrays["forward/R"], "latents")
        close(solution.context_latents, arrays["forward/R2"], "context latents")
    expected = tidhy.load_original(case.model, _under(arrays, "grad/"))
    for (path, got), want in zip(
        jtu.tree_leaves_with_path(gradient),
        jtu.tree_leaves(eqx.filter(expected, eqx.is_inexact_array)),
        strict=True,
    ):
        close(got, want, f"gradient of {jtu.keystr(path)}")


def _check_recorder(case: _Case) -> None:
    arrays = _under(case.arrays, "eval/")
    # The originals predict without the learned prior, and fill the first step with conventions of their own.
    model = eqx.tree_at(lambda m: m.prior, case.model, None, is_leaf=lambda x: x is None)
    context = _zeros_or(case.evaluation_context, case)
    fresh = None if case.evaluation_context is None else context
    solution, _ = tidhy.infer(case.model, case.observations, case.evaluation, initial_context=fresh)
    rec = tidhy.describe(model, case.observations, solution, initial_context=context)
    later = slice(1, None)
    close(rec.latents, arrays["R_hat"], "R_hat")
    close(rec.reconstructions, arrays["I_hat"], "I_hat")
    close(rec.context_latents[:, later], arrays["R2_hat"][:, later], "R2_hat")
    close(rec.predicted_latents[:, later], arrays["R_bar"][:, later], "R_bar")
    close(rec.predicted_observations[:, later], arrays["I_bar"][:, later], "I_bar")
    close(rec.predicted_transitions[:, later], arrays["Ut"][:, later], "Ut")
    reduce = (lambda x: x) if case.is_torch else (lambda x: x.sum(-1))
    close(reduce(rec.reconstruction_loss), arrays["spatial_loss_rhat"], "reconstruction losses")
    close(reduce(rec.prediction_loss)[:, later], arrays["spatial_loss_rbar"][:, later], "prediction losses")
    close(reduce(rec.temporal_loss)[:, later], arrays["temp_loss"][:, later], "temporal losses")
    if case.is_torch:
        close(rec.weights[:, later], arrays["W"][:, later], "W")
        weight = case.inference.objective.temporal
        num_sequences = case.observations.shape[0]
        close(rec.reconstruction_loss.sum() / num_sequences, arrays["avg_spatial_loss_rhat"], "average")
        close(weight * rec.temporal_loss[:, later].sum() / num_sequences, arrays["avg_temp_loss"], "average")
        if "b" in arrays:
            close(rec.gains[:, later], arrays["b"][:, later], "b")
    else:
        close(rec.predicted_weights[:, later], arrays["W"][:, later], "W")
        np.testing.assert_array_equal(rec.num_steps, arrays["n_iter"])


_CHECKS = (
    _check_decoder_and_prediction,
    _check_one_inference,
    _check_trace,
    _check_losses_and_gradients,
    _check_recorder,
)


def _check_batch(npz: Mapping[str, np.ndarray], name: str, settings: dict[str, Any]) -> None:
    raise NotImplementedError


def _batch_sizes(npz: Mapping[str, np.ndarray]) -> list[str]:
    return []


def _check_regularizers(npz: Mapping[str, np.ndarray], settings: dict[str, Any]) -> None:
    case = _nnx_case(npz, "linear", settings)
    loss_fn = tidhy.TiDHyLoss(case.inference)
    solution = loss_fn.infer(case.model, case.observations, initial_context=case.initial_context).solution
    for name, regularizer in {
        "sparsity_w_l1": tidhy.WeightL1(1.0),
        "sparsity_w_adaptive": tidhy.AdaptiveWeightSparsity(1.0),
        "sparsity_w_safe": tidhy.ComponentCount(1.0),
        "sparsity_w_selective": tidhy.SelectiveWeights(1.0),
        "lambda_decoder_ortho": tidhy.DecoderOrthogonality(1.0, normalized=True),
    }.items():
        value, gradient = eqx.filter_value_and_grad(regularizer)(case.model, solution)
        norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in jtu.tree_leaves(gradient)))
        print(name, value, npz[f"reg/{name}/value"], norm, npz[f"reg/{name}/grad_norm"])


def _check_training(npz: Mapping[str, np.ndarray], name: str, settings: dict[str, Any]) -> None:
    raise NotImplementedError


def _zeros_or(context: jax.Array | None, case: _Case) -> jax.Array:
    shape = (case.observations.shape[0], case.model.context_size)
    return jnp.zeros(shape, case.model.dtype) if context is None else context


def _under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name[len(prefix) :]: arrays[name] for name in arrays if name.startswith(prefix)}


def close(got: Any, want: Any, what: str, rtol: float = RTOL) -> None:
    """Assert that two arrays agree relative to the largest entry."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{what}: {got.shape} instead of {want.shape}"
    error = np.max(np.abs(got - want), initial=0.0) / max(np.max(np.abs(want), initial=0.0), 1e-12)
    assert error <= rtol, f"{what}: relative error {error:.2e}"
