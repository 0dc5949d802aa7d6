"""One training step: what it computes, and what it refuses before computing."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest
from jax.experimental import sparse as jsparse

from eqx_dynamics import AbstractCell, scan
from eqx_dynamics.training import (
    DynamicLossScale,
    NonFiniteError,
    Precision,
    RaiseOnNaN,
    SkipOnNaN,
    StopOnNaN,
    WeightAverage,
    fit,
    leaf_mask,
    make_schedule,
    make_step,
    optimizer_groups,
)
from eqx_dynamics.transform import Not
from training_support import Normed, batches, close, make_model, normed_loss, squared_error, with_metrics


def run(step, model, batch_list, **init):
    """States after each batch, and metrics before each update."""
    state, metrics = step.init(model, key=jr.key(0), **init), []
    one = eqx.filter_jit(step)
    for batch in batch_list:
        row, state = one(batch, state)
        metrics.append(row)
    return state, metrics


def by_hand(loss_fn, optimizer, model, batch_list):
    """The loop of the Equinox tutorial."""
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def one(model, opt_state, batch):
        with jax.numpy_dtype_promotion("standard"):
            loss, grads = eqx.filter_value_and_grad(loss_fn)(model, batch, None)
            updates, opt_state = optimizer.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
            return eqx.apply_updates(model, updates), opt_state, loss

    losses = []
    for batch in batch_list:
        model, opt_state, loss = one(model, opt_state, batch)
        losses.append(loss)
    return model, losses


def test_is_the_loop_one_would_write_by_hand():
    optimizer = optax.adamw(make_schedule("cosine", 1e-2, steps=6, warmup=2))
    state, metrics = run(make_step(with_metrics, optimizer), make_model(), batches())
    model, losses = by_hand(squared_error, optimizer, make_model(), batches())
    assert close(state.model, model)
    np.testing.assert_allclose([m["loss"] for m in metrics], losses, rtol=1e-6)
    np.testing.assert_allclose([m["rmse"] ** 2 for m in metrics], losses, rtol=1e-5)
    assert int(state.step) == 6 and state.model.activation is make_model().activation


def test_keys_depend_on_the_run_and_the_step_only():
    def noisy(model, batch, key):
        return squared_error(model, batch, key) + jr.uniform(key, (), jnp.float32)

    _, metrics = run(make_step(noisy, optax.sgd(0.0)), make_model(), batches()[:1] * 3)
    expected = [jr.uniform(jr.fold_in(jr.key(0), n), ()) for n in range(3)]
    steady = squared_error(make_model(), batches()[0], None)
    np.testing.assert_allclose([m["loss"] - steady for m in metrics], expected, atol=1e-6)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_gradient_equals_that_of_the_large_batch(parts):
    optimizer = optax.adam(1e-2)
    whole, metrics = run(make_step(with_metrics, optimizer), make_model(), batches())
    split, split_metrics = run(make_step(with_metrics, optimizer, accumulate=parts), make_model(), batches())
    assert close(whole.model, split.model, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose([m["loss"] for m in metrics], [m["loss"] for m in split_metrics], rtol=1e-5)


def test_clip_bounds_the_gradient():
    def moved(clip):
        step = make_step(lambda m, b, k: 100 * squared_error(m, b, k), optax.sgd(1.0), clip=clip)
        state, _ = run(step, make_model(), batches()[:1])
        difference = jtu.tree_map(
            lambda a, b: a - b, *(eqx.filter(m, eqx.is_inexact_array) for m in (state.model, make_model()))
        )
        return float(optax.tree.norm(difference))

    assert moved(0.25) == pytest.approx(0.25, rel=1e-5)
    assert moved(optax.clip_by_global_norm(0.5)) == pytest.approx(0.5, rel=1e-5)
    assert moved(None) > 1


def test_frozen_leaves_stay_and_cost_no_state():
    step = make_step(squared_error, optax.adam(1e-2), frozen="layers.0")
    state, _ = run(step, make_model(), batches())
    assert close(state.model.layers[0], make_model().layers[0], rtol=0, atol=0)
    assert not close(state.model.layers[1], make_model().layers[1])
    assert len(jtu.tree_leaves(state.opt_state[0].mu)) == 2


def test_each_group_moves_at_its_own_rate():
    groups = {"layers.0": optax.sgd(0.1), "layers.1.bias": optax.sgd(0.01), ...: optax.set_to_zero()}
    state, _ = run(make_step(squared_error, optimizer_groups(groups)), make_model(), batches()[:1])
    grads = eqx.filter_grad(squared_error)(make_model(), batches()[0], None)
    for rate, where in (
        (0.1, lambda m: m.layers[0].weight),
        (0.1, lambda m: m.layers[0].bias),
        (0.01, lambda m: m.layers[1].bias),
        (0.0, lambda m: m.layers[1].weight),
    ):
        np.testing.assert_allclose(where(state.model) - where(make_model()), -rate * where(grads), rtol=1e-4, atol=1e-7)


def test_groups_equal_the_optimizer_they_all_share():
    groups = {eqx.is_inexact_array: optax.adamw(1e-2)}
    assert close(
        run(make_step(squared_error, optimizer_groups(groups)), make_model(), batches())[0].model,
        run(make_step(squared_error, optax.adamw(1e-2)), make_model(), batches())[0].model,
    )


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            {"layers.0": optax.sgd(0.1), "**.bias": optax.sgd(0.1), ...: optax.sgd(0.1)},
            "claim a leaf twice; `layers.0.b",
        ),
        ({"layers.0": optax.sgd(0.1)}, r"must claim every trained leaf; `layers.1.weight`"),
        ({"layers.7": optax.sgd(0.1), ...: optax.sgd(0.1)}, "`groups` selects no"),
        ({eqx.is_array: optax.sgd(0.1), ...: optax.sgd(0.1)}, "but none is left"),
        ({}, "at least one filter"),
    ],
)
def test_groups_refuse(groups, message):
    with pytest.raises(ValueError, match=message):
        make_step(squared_error, optimizer_groups(groups)).init(make_model(), key=jr.key(0))


def test_weight_decay_mask():
    optimizer = optax.chain(optax.add_decayed_weights(0.5, mask=leaf_mask("**.weight")), optax.sgd(1.0))
    state, _ = run(make_step(lambda m, b, k: 0.0 * squared_error(m, b, k), optimizer), make_model(), batches()[:1])
    np.testing.assert_allclose(state.model.layers[0].weight, make_model().layers[0].weight / 2, rtol=1e-6)
    np.testing.assert_array_equal(state.model.layers[0].bias, make_model().layers[0].bias)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0]),
        ("linear", [0.0, 0.5, 1.0, 0.55, 0.1]),
        ("cosine", [0.0, 0.5, 1.0, 0.55, 0.1]),
        ("exponential", [0.0, 0.5, 1.0, np.sqrt(0.1), 0.1]),
        ("inverse_sqrt", [0.0, 0.5, 1.0, np.sqrt(0.2), np.sqrt(2 / 18)]),
        (optax.linear_schedule(1.0, 0.1, 16), [0.0, 0.5, 1.0, 0.55, 0.1]),
    ],
)
def test_schedules(name, expected):
    with jax.numpy_dtype_promotion("standard"):
        schedule = make_schedule(name, 1.0, steps=18, warmup=2, end=0.1)
        np.testing.assert_allclose([schedule(n) for n in (0, 1, 2, 10, 18)], expected, rtol=1e-5)


def test_schedules_refuse():
    with pytest.raises(ValueError, match="`steps` is needed by the 'cosine' schedule"):
        make_schedule("cosine", 1.0)
    with pytest.raises(ValueError, match="`warmup` must lie between 0 and `steps`"):
        make_schedule("linear", 1.0, steps=5, warmup=5)
    with pytest.raises(ValueError, match="must be positive for an exponential decay"):
        make_schedule("exponential", 1.0, steps=5)
    with pytest.raises(ValueError, match="`peak` and `end` must not be negative: they are rates"):
        make_schedule("cosine", -1.0, steps=5)
    assert make_schedule("cosine", 0.0, steps=5)(3) == 0


def test_average_of_the_weights():
    step = make_step(squared_error, optax.sgd(0.1), average=WeightAverage(0.5))
    state = step.init(make_model(), key=jr.key(0))
    expected = np.asarray(state.model.layers[0].weight)
    for n, batch in enumerate(batches()):
        _, state = step(batch, state)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * np.asarray(state.model.layers[0].weight)
    np.testing.assert_allclose(state.averaged_model.layers[0].weight, expected, rtol=1e-5)
    assert state.averaged_model.activation is state.model.activation


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [
        (Precision(jnp.bfloat16), 0.05),
        (Precision(jnp.bfloat16, keep="layers.1"), 0.05),
        (Precision(jnp.float16, loss_scale=DynamicLossScale()), 0.01),
    ],
    ids=["bf16", "bf16_keep", "f16_scaled"],
)
def test_low_precision_follows_float32(precision, tolerance):
    seen = []

    def loss(model, batch, key):
        seen.append((model.layers[0].weight.dtype, model.layers[1].weight.dtype, batch[0].dtype))
        x, y = batch
        out = jax.vmap(lambda x: model.layers[1](jax.nn.relu(model.layers[0](x)).astype(model.layers[1].weight.dtype)))(
            x
        )
        return jnp.mean((out - y.astype(out.dtype)) ** 2)

    state, metrics = run(make_step(loss, optax.adam(1e-2), precision=precision), make_model(), batches() * 5)
    reference, reference_metrics = run(make_step(squared_error, optax.adam(1e-2)), make_model(), batches() * 5)
    kept = jnp.float32 if precision.keep else precision.compute
    assert seen[0] == (precision.compute, kept, precision.compute)
    assert state.model.layers[0].weight.dtype == jnp.float32 and metrics[0]["loss"].dtype == jnp.float32
    np.testing.assert_allclose(
        [m["loss"] for m in metrics], [m["loss"] for m in reference_metrics], rtol=tolerance, atol=tolerance
    )
    assert close(state.model, reference.model, atol=2 * tolerance, rtol=0)
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]


def test_loss_scale_falls_at_overflow_and_grows_again():
    precision = Precision(jnp.float16, loss_scale=DynamicLossScale(2.0**20, growth_interval=3))
    step = make_step(squared_error, optax.sgd(0.01), precision=precision)
    state, one, scales, moved = step.init(make_model(), key=jr.key(0)), eqx.filter_jit(step), [], []
    for batch in batches() * 4:
        before = state.model.layers[0].weight
        _, state = one(batch, state)
        scales.append(float(state.loss_scale.value))
        moved.append(bool(jnp.any(before != state.model.layers[0].weight)))
    fell = np.diff([2.0**20, *scales]) < 0
    assert fell[0] and not any(np.asarray(moved) & fell) and all(np.asarray(moved) | fell)
    assert any(np.diff(scales) > 0)
    assert int(state.health.skipped) == 0 and int(state.step) == 24  # overflow is not the user's error


def test_gradients_too_small_for_float16_survive_by_the_scale():
    def tiny(model, batch, key):
        return squared_error(model, batch, key) * jnp.asarray(1e-6, batch[0].dtype)

    lost, _ = run(make_step(tiny, optax.sgd(1e6), precision=Precision(jnp.float16)), make_model(), batches()[:1])
    scaled = Precision(jnp.float16, loss_scale=DynamicLossScale(2.0**12))
    kept, _ = run(make_step(tiny, optax.sgd(1e6), precision=scaled), make_model(), batches()[:1])
    exact, _ = run(make_step(tiny, optax.sgd(1e6)), make_model(), batches()[:1])
    errors = [
        float(jnp.abs(state.model.layers[0].weight - exact.model.layers[0].weight).max()) for state in (kept, lost)
    ]
    assert errors[0] < 0.3 * errors[1]


def poisoned(model, batch, key):
    """A gradient that is not finite for `layers.1` where the batch says so; the loss stays finite."""
    x, y = batch
    bad = jnp.any(jnp.isinf(x))
    x = jnp.where(jnp.isinf(x), 0.0, x)
    kink = jnp.sqrt(jnp.where(bad, 0.0, 1.0) * jnp.sum(model.layers[1].weight ** 2))
    return jnp.mean((jax.vmap(model)(x) - y) ** 2) + 1e-3 * kink


BAD = (np.full((16, 3), np.inf, np.float32), np.zeros((16, 1), np.float32))


def test_nan_policy_raise_names_step_and_leaf():
    step = make_step(poisoned, optax.adam(1e-2), nan_policy=RaiseOnNaN())
    state, _ = run(step, make_model(), [*batches()[:2], BAD, *batches()[2:]])
    good, _ = run(step, make_model(), batches()[:2])
    with pytest.raises(NonFiniteError, match=r"Not finite at step 2: the gradient of `layers.1.weight`.") as caught:
        step.check(state)
    assert caught.value.step == 2 and caught.value.names == ("layers.1.weight",)
    assert close(caught.value.state.model, good.model, rtol=0, atol=0)
    assert int(state.step) == 2
    step.check(good)


def test_nan_policy_raise_names_the_loss():
    step = make_step(squared_error, optax.adam(1e-2))
    state, _ = run(step, make_model(), [BAD])
    with pytest.raises(NonFiniteError, match=r"Not finite at step 0: the loss, the gradient of `layers.0.weight`"):
        step.check(state)


def test_nan_policy_skip_counts_and_goes_on():
    step = make_step(poisoned, optax.sgd(1e-2), nan_policy=SkipOnNaN(limit=2))
    state, _ = run(step, make_model(), [*batches()[:2], BAD, *batches()[2:], BAD])
    reference, _ = run(step, make_model(), batches())
    assert close(state.model, reference.model)
    assert int(state.health.skipped) == 2 and int(state.step) == 8
    step.check(state)
    state, _ = run(step, make_model(), [BAD, BAD, *batches()])
    with pytest.raises(NonFiniteError, match=r"2 times in a row: Not finite at step 1"):
        step.check(state)


def test_nan_policy_stop_keeps_the_last_good_state():
    step = make_step(poisoned, optax.adam(1e-2), nan_policy=StopOnNaN())
    state, _ = run(step, make_model(), [*batches()[:2], BAD, *batches()[2:]])
    good, _ = run(step, make_model(), batches()[:2])
    assert close((state.model, state.opt_state), (good.model, good.opt_state), rtol=0, atol=0)
    assert bool(state.health.halted) and int(state.step) == 2
    revived = step.recover(state)
    _, after = step(batches()[2], revived)
    assert int(after.step) == 3


def test_without_a_nan_policy_nothing_is_looked_at():
    step = make_step(squared_error, optax.sgd(1e-2), nan_policy=None)
    state, _ = run(step, make_model(), [BAD])
    assert state.health is None and bool(jnp.isnan(state.model.layers[0].weight).any())
    step.check(state)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_batch_norm_statistics_are_carried(accumulate):
    model, statistics = eqx.nn.make_with_state(Normed)(jr.key(0))
    step = make_step(normed_loss, optax.sgd(0.1), accumulate=accumulate)
    state, metrics = run(step, model, batches() * 4, statistics=statistics)
    _, again_metrics = run(step, model, batches() * 4, statistics=statistics)  # the first state is still usable
    assert metrics[-1]["loss"] < metrics[0]["loss"] and again_metrics[-1]["loss"] == metrics[-1]["loss"]
    moved = zip(jtu.tree_leaves(statistics), jtu.tree_leaves(state.statistics), strict=True)
    assert any(bool(jnp.any(a != b)) for a, b in moved)
    inference = eqx.nn.inference_mode(state.model)
    out, _ = inference(jnp.ones(3), state.statistics)
    assert jnp.isfinite(out).all()


class Recurrent(AbstractCell):
    weight: jax.Array

    def init_state(self, shape=(), *, key=None):
        return jnp.zeros((*shape, 3))

    def __call__(self, x, state, *, key=None):
        state = jnp.tanh(x + state @ self.weight)
        return state, state


def test_a_recurrent_state_is_carried_between_batches():
    def loss(model, batch, key, carry):
        ys, carry = scan(model, batch, carry)
        return jnp.mean(ys**2), {}, jax.lax.stop_gradient(carry)

    cell, xs = Recurrent(jnp.eye(3)), jr.normal(jr.key(1), (4, 5, 2, 3))
    step = make_step(loss, optax.sgd(0.0))
    state, metrics = run(step, cell, list(xs), statistics=cell.init_state((2,)))
    ys, last = scan(cell, xs.reshape(20, 2, 3), cell.init_state((2,)))
    np.testing.assert_allclose(state.statistics, last, rtol=1e-5)
    np.testing.assert_allclose(np.mean([m["loss"] for m in metrics]), jnp.mean(ys**2), rtol=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.lbfgs(),
        optax.MultiSteps(optax.adam(1e-2), every_k_schedule=2),
        optax.chain(optax.adam(1e-2), optax.contrib.reduce_on_plateau()),
        optax.contrib.schedule_free_adamw(1e-2),
        optax.apply_if_finite(optax.sgd(0.1), 3),
        optimizer_groups({"layers.0": optax.lbfgs(), ...: optax.adam(1e-2)}),
    ],
    ids=["lbfgs", "multi_steps", "plateau", "schedule_free", "apply_if_finite", "lbfgs_of_a_group"],
)
def test_unusual_optimizers(optimizer):
    _, metrics = run(make_step(squared_error, optimizer), make_model(), batches()[:1] * 12)
    assert metrics[-1]["loss"] < metrics[0]["loss"]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_parameters_keep_their_dtype(dtype):
    model = jtu.tree_map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, make_model())
    cast = [tuple(a.astype(dtype) for a in batch) for batch in batches()]
    state, _ = run(
        make_step(squared_error, optax.adamw(make_schedule("linear", 1e-3, steps=9)), accumulate=2), model, cast
    )
    assert {leaf.dtype for leaf in jtu.tree_leaves(eqx.filter(state.model, eqx.is_array))} == {jnp.dtype(dtype)}


def test_one_trace_only():
    step = make_step(squared_error, optax.adamw(make_schedule("cosine", 1e-2, steps=9)), average=WeightAverage())
    counted = eqx.debug.assert_max_traces(step.__call__, max_traces=1)
    one, state = eqx.filter_jit(lambda batch, state: counted(batch, state)), step.init(make_model(), key=jr.key(0))
    for batch in batches():
        _, state = one(jtu.tree_map(jnp.asarray, batch), state)


def test_jit_is_eager():
    step = make_step(with_metrics, optax.adam(1e-2), average=WeightAverage(), clip=1.0)
    state = step.init(make_model(), key=jr.key(0))
    assert close(step(batches()[0], state), eqx.filter_jit(step)(batches()[0], state), rtol=1e-5)


def test_ensembles_train_under_vmap():
    step = make_step(squared_error, optax.adam(1e-2))
    make = eqx.filter_vmap(lambda key: step.init(eqx.nn.MLP(3, 1, 8, 1, key=key), key=key))
    states = make(jr.split(jr.key(0), 3))
    axes = jtu.tree_map(eqx.if_array(0), states)
    metrics, states = eqx.filter_jit(eqx.filter_vmap(step, in_axes=(None, axes), out_axes=(0, eqx.if_array(0))))(
        batches()[0], states
    )
    assert metrics["loss"].shape == (3,) and states.step.tolist() == [1, 1, 1]


REFUSALS = {
    "not_scalar": (lambda m, b, k: jax.vmap(m)(b[0])[:, 0], {}, r"scalar loss; got float32 of shape \(16,\)"),
    "integer": (lambda m, b, k: jnp.int32(1), {}, "floating scalar loss; got int32"),
    "metric_shape": (lambda m, b, k: (squared_error(m, b, k), {"a": jnp.ones(3)}), {}, r"`a` is of shape \(3,\)"),
    "metric_type": (lambda m, b, k: (squared_error(m, b, k), {"a": "x"}), {}, "`a` is of str"),
    "metric_name": (lambda m, b, k: (squared_error(m, b, k), {"loss": 1.0}), {}, "metric named `loss`"),
    "three": (lambda m, b, k: (squared_error(m, b, k), {}, None), {}, "got a tuple of 3"),
    "keep": (squared_error, {"precision": Precision(jnp.bfloat16, keep="layer")}, "`keep` selects no array of MLP"),
    "accumulate": (squared_error, {"accumulate": 3}, r"`accumulate`=3 splits the first axis"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_bad_losses_and_batches_are_refused_before_computing(name):
    loss, options, message = REFUSALS[name]
    step = make_step(loss, optax.sgd(0.1), **options)
    state = step.init(make_model(), key=jr.key(0))
    with pytest.raises((ValueError, TypeError), match=message):
        eqx.filter_eval_shape(step, batches()[0], state)


def test_a_batch_of_unequal_leading_sizes_is_refused():
    class Interactions(eqx.Module):
        x: Any
        y: Any

    def broadcasting(model, batch, key):  # (15, 1) - (1, 16) would train on a wrong number
        x, y, *_ = jax.tree.leaves(batch)
        return jnp.mean((jax.vmap(model)(x) - y.reshape(1, -1)) ** 2)

    step = make_step(broadcasting, optax.sgd(0.1))
    (x, y), state = batches()[0], step.init(make_model(), key=jr.key(0))
    for batch in [(x[:15], y), {"x": x[:15], "y": y}, [x[:15], np.asarray(y)]]:
        with pytest.raises(ValueError, match=r"`batch` must have one leading size.*15.*16.*eqx\.Module"):
            step(batch, state)
        with pytest.raises(ValueError, match=r"`batch` must have one leading size.*15.*16.*eqx\.Module"):
            fit(state, step, [batch], steps=1)
    # A class means its sizes, as does a format of sparse arrays; numbers and keys have no examples.
    sparse = jsparse.BCOO.fromdense(jnp.eye(7), nse=7)
    for batch in (Interactions(x[:15], y), Pair(x[:15], y), (x, y, Pair(x[:15], y), sparse, jnp.ones(()), jr.key(0))):
        eqx.filter_eval_shape(step, batch, state)


class Pair(NamedTuple):
    x: Any
    y: Any


def test_metrics_must_be_a_dict():
    step = make_step(lambda m, b, k: (squared_error(m, b, k), [1.0]), optax.sgd(0.1))
    with pytest.raises(TypeError, match="metrics as a dict of scalars; got list"):
        eqx.filter_eval_shape(step, batches()[0], step.init(make_model(), key=jr.key(0)))


def test_the_state_of_another_model_is_refused():
    step = make_step(squared_error, optax.adam(1e-2))
    state, other = step.init(make_model(), key=jr.key(0)), step.init(make_model(width=5), key=jr.key(0))
    mixed = eqx.tree_at(lambda s: s.opt_state, state, other.opt_state)
    with pytest.raises(ValueError, match=r"layers\[0\].weight` must be float32\[8, 3\]; got float32\[5, 3\]"):
        eqx.filter_eval_shape(step, batches()[0], mixed)
    sgd = make_step(squared_error, optax.sgd(1e-2)).init(make_model(), key=jr.key(0))
    with pytest.raises(ValueError, match=r"`state.opt_state.*` must be .*; got nothing"):
        eqx.filter_eval_shape(step, batches()[0], eqx.tree_at(lambda s: s.opt_state, state, sgd.opt_state))
    with pytest.raises(ValueError, match=r"`state.health` does not fit this step"):
        unwatched = make_step(squared_error, optax.adam(1e-2), nan_policy=None).init(make_model(), key=jr.key(0))
        eqx.filter_eval_shape(step, batches()[0], unwatched)


def test_statistics_must_keep_their_structure():
    for returned, message in (
        (lambda s: (s, s), "keep the structure of `statistics`"),
        (lambda s: jnp.zeros(4), r"keep the shapes of `statistics`; `` was \(2,\) and became \(4,\)"),
    ):
        step = make_step(lambda m, b, k, s, f=returned: (squared_error(m, b, k), {}, f(s)), optax.sgd(0.1))
        state = step.init(make_model(), key=jr.key(0), statistics=jnp.zeros(2))
        with pytest.raises(ValueError, match=message):
            eqx.filter_eval_shape(step, batches()[0], state)
    step = make_step(lambda m, b, k, s: squared_error(m, b, k), optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"must return `\(loss, metrics, statistics\)`"):
        eqx.filter_eval_shape(step, batches()[0], step.init(make_model(), key=jr.key(0), statistics=jnp.zeros(2)))


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match=r"`loss_fn` must take `\(model, batch, key\)`.*a function of \(model, batch\)"):
        make_step(lambda model, batch: 0.0, optax.sgd(0.1))
    with pytest.raises(ValueError, match="`accumulate` must be at least 1; got 0"):
        make_step(squared_error, optax.sgd(0.1), accumulate=0)
    with pytest.raises(ValueError, match="`clip` must be positive; got -1"):
        make_step(squared_error, optax.sgd(0.1), clip=-1.0)
    with pytest.raises(ValueError, match="has no floating array to train, or all are `frozen`"):
        make_step(squared_error, optax.sgd(0.1), frozen=...).init(make_model(), key=jr.key(0))
    with pytest.raises(ValueError, match="`frozen` selects no array of MLP; got frozen='decoder'"):
        make_step(squared_error, optax.sgd(0.1), frozen="decoder").init(make_model(), key=jr.key(0))
    with pytest.raises(ValueError, match=r"`decay` must lie in \[0, 1\); got 1.0"):
        WeightAverage(1.0)
    with pytest.raises(ValueError, match="`compute` must be a floating dtype; got int32"):
        Precision(jnp.int32)
    with pytest.raises(ValueError, match="`initial` and `growth_interval` must be at least 1"):
        DynamicLossScale(0.0)
    with pytest.raises(ValueError, match="`limit` must be at least 1; got 0"):
        SkipOnNaN(0)


def test_frozen_by_negation():
    step = make_step(squared_error, optax.sgd(1e-2), frozen=Not("layers.1"))
    assert len(jtu.tree_leaves(step.split(make_model())[0])) == 2


def test_complex_parameters_go_downhill():
    class Gain(eqx.Module):
        value: jax.Array

    def loss(model, batch, key):
        return jnp.mean(jnp.abs(model.value * batch - (1 + 2j) * batch) ** 2)

    step = make_step(loss, optax.sgd(0.25))
    state = step.init(Gain(jnp.asarray(0.5 + 0.5j)), key=jr.key(0))
    for _ in range(30):
        _, state = step(jnp.ones(4, jnp.complex64), state)
    np.testing.assert_allclose(state.model.value, 1 + 2j, rtol=1e-4)


def test_a_loss_that_returns_nothing_is_named():
    step = make_step(lambda model, batch, key: None, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"`loss_fn` must return a scalar loss .* got NoneType"):
        step(batches()[0], step.init(make_model(), key=jr.key(0)))


def test_a_number_is_fixed_whoever_computed_it():
    class Scaled(eqx.Module):
        weight: jax.Array
        scale: Any

    step = make_step(lambda model, batch, key: jnp.mean((model.weight * float(model.scale) - 1) ** 2), optax.sgd(0.1))
    state = step.init(Scaled(jnp.ones(3), np.exp(np.float64(0.5))), key=jr.key(0))
    _, after = step(jnp.zeros(1), state)
    assert after.model.scale == np.exp(0.5) and (after.model.weight != 1).all()
