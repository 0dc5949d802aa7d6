"""Several devices give the numbers of one; several processes too."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from eqx_dynamics.parallel import DataParallel, data_mesh, join_processes, stacked
from eqx_dynamics.training import fit, make_step
from training_support import batches, data, make_model, with_metrics


WORKER = pathlib.Path(__file__).with_name("parallel_worker.py")


def start_worker(*arguments):
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    return subprocess.Popen(
        [sys.executable, str(WORKER), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(worker):
    out, err = worker.communicate(timeout=240)
    assert worker.returncode == 0, err[-4000:]
    return json.loads(out.splitlines()[-1])


@pytest.mark.slow
def test_four_devices_equal_one():
    report = result(start_worker("devices"))
    assert report["num_devices"] == report["on"] == 4 and report["replicated"]
    for case in ("arrays", "iterable", "everything", "stacked", "batch_norm"):
        assert report[case] < 1e-6, (case, report[case])
    assert report["collectives"] == [1, 0] and report["collectives_stacked"] == [1, 0]


@pytest.mark.slow
def test_two_processes_equal_one_and_share_a_checkpoint(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    workers = [start_worker("process", n, 2, address, tmp_path) for n in range(2)]
    first, second = map(result, workers)
    assert first == second and first["devices"] == [2, 4]
    assert first["restored"] == [5, 0.0] and first["resumed"] == [12, 0.0] and first["same_place"]
    step = make_step(with_metrics, optax.adam(1e-2), clip=1.0)
    state, history = fit(step.init(make_model(), key=jr.key(0)), step, batches(), steps=6, steps_per_dispatch=3)
    np.testing.assert_allclose(first["iterable"], history["loss"], rtol=1e-5)
    np.testing.assert_allclose(first["iterable_weight"], state.model.layers[0].weight.ravel(), rtol=1e-5, atol=1e-6)
    _, history = fit(step.init(make_model(), key=jr.key(0)), step, data(), epochs=2)
    np.testing.assert_allclose(first["arrays"], history["loss"], rtol=1e-5)


@pytest.mark.slow
def test_stages_on_four_devices_train_as_on_one():
    example = WORKER.parents[1] / "examples" / "model_parallel.py"
    run = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr[-4000:]


def test_two_devices_equal_one_and_every_leaf_is_on_both():
    step, alone = (make_step(with_metrics, optax.adam(1e-2), mesh=mesh) for mesh in (data_mesh(), None))
    state, history = fit(step.init(make_model(), key=jr.key(0)), step, data(), epochs=1)
    _, expected = fit(alone.init(make_model(), key=jr.key(0)), alone, data(), epochs=1)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-6)
    arrays = jax.tree.leaves(eqx.filter(state, eqx.is_array))
    assert all(len(array.sharding.device_set) == 2 and array.sharding.is_fully_replicated for array in arrays)


def test_stacked_is_the_mean_over_sub_batches():
    loss = stacked(with_metrics)
    xs = tuple(a.reshape(4, 4, -1) for a in batches()[0])
    value, metrics = loss(make_model(), xs, jr.key(0))
    each = [with_metrics(make_model(), tuple(a[n] for a in xs), None) for n in range(4)]
    np.testing.assert_allclose(value, np.mean([one[0] for one in each]), rtol=1e-6)
    np.testing.assert_allclose(metrics["rmse"], np.mean([one[1]["rmse"] for one in each]), rtol=1e-6)
    with pytest.raises(ValueError, match=r"`batch` must have one leading size.*'batch\[0\]': 4, 'batch\[1\]': 1}"):
        loss(make_model(), (xs[0], xs[1][:, :1]), jr.key(0))
    with pytest.raises(ValueError, match="`stacked` cannot carry `statistics`"):
        loss(make_model(), xs, jr.key(0), jnp.zeros(3))


def test_what_cannot_be_split_is_named():
    step = make_step(with_metrics, optax.adam(1e-2), mesh=data_mesh())
    state = step.init(make_model(), key=jr.key(0))
    x, y = batches()[0]
    with pytest.raises(ValueError, match=r"into 2 parts; leaf `batch\[0\]` has shape \(15, 3\)"):
        eqx.filter_eval_shape(step, (x[:15], y[:15]), state)
    with pytest.raises(ValueError, match=r"leaf `batch\[1\]` has shape \(\)"):
        fit(state, step, [(x, np.float32(1.0) * np.ones(()))], steps=1)
    with pytest.raises(ValueError, match=r"`axis` must be an axis of the mesh \('batch',\); got 'model'"):
        DataParallel(data_mesh(), axis="model")
    with pytest.raises(ValueError, match=r"must have `AxisType.Auto`; make the mesh with `data_mesh\(\)`"):
        make_step(with_metrics, optax.adam(1e-2), mesh=jax.make_mesh((2,), ("batch",)))
    with pytest.raises(ValueError, match=r"`process_id` must lie in \[0, num_processes\); got 2 of 2"):
        join_processes("localhost:1", num_processes=2, process_id=2)
