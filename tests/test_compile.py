"""Compiling ahead, caching, exporting: the right program for the arguments, or an error that names what differs."""

import asyncio
import os
import subprocess
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

from eqx_dynamics.transform import compile_ahead, enable_compilation_cache, export, load_exported, symbolic_sizes
from eqx_graph.nn.conv import GCNConv


MODEL = eqx.nn.MLP(3, 2, 8, 1, key=jr.key(0))
X = jnp.array([0.1, -0.4, 0.7])


def repeat(model, x, times, scale):
    for _ in range(times):
        x = x + jnp.sum(model(x))
    return {"x": scale["s"] * x, "times": times, "f": jnp.tanh}


@pytest.fixture(scope="module")
def compiled():
    return compile_ahead(repeat, MODEL, X, 3, {"s": jnp.ones(())}).result()


def test_compiled_function_gives_the_same_for_other_values(compiled):
    model = eqx.tree_at(lambda m: m.layers[0].bias, MODEL, jnp.ones(8))
    out = compiled(model, 2 * X, 3, {"s": jnp.array(3.0)})
    assert eqx.tree_equal(out, repeat(model, 2 * X, 3, {"s": jnp.array(3.0)}), rtol=1e-5, atol=1e-6)
    assert out["times"] == 3 and out["f"] is jnp.tanh
    assert compiled.memory_in_bytes() >= 0 and "HloModule" in compiled.as_text()


def test_equinox_alone_returns_the_wrong_number_for_another_static_value(compiled):
    """Why the check exists. If this fails, Equinox has learnt to refuse, and the check may go."""
    bare = eqx.filter_jit(repeat).lower(MODEL, X, 3, {"s": jnp.ones(())}).compile()
    assert not jnp.allclose(bare(MODEL, X, 4, {"s": jnp.ones(())})["x"], repeat(MODEL, X, 4, {"s": 1.0})["x"])


MISMATCHES = {
    "static": (
        lambda: (MODEL, X, 4, {"s": jnp.ones(())}),
        r"Argument 2 was the static value 3 .* got the static value 4",
    ),
    "static type": (lambda: (MODEL, X, 3.0, {"s": jnp.ones(())}), r"Argument 2 was the static value 3 .* 3\.0"),
    "shape": (lambda: (MODEL, X[:2], 3, {"s": jnp.ones(())}), r"Argument 1 was float32\[3\] .* got float32\[2\]"),
    "dtype": (lambda: (MODEL, X, 3, {"s": jnp.array(1)}), r"Argument 3\['s'\] was float32\[\] .* got int32\[\]"),
    "no array": (lambda: (MODEL, X, 3, {"s": 1.0}), r"Argument 3\['s'\] was float32\[\] .* the static value 1\.0"),
    "function": (
        lambda: (eqx.tree_at(lambda m: m.activation, MODEL, jnp.tanh), X, 3, {"s": jnp.ones(())}),
        r"Argument 0\.activation was the static value",
    ),
    "structure": (
        lambda: (eqx.nn.MLP(3, 2, 8, 2, key=jr.key(0)), X, 3, {"s": jnp.ones(())}),
        "Argument 0 has another structure, or other static fields",
    ),
    "static field": (
        lambda: (eqx.tree_at(lambda m: m.layers, MODEL, MODEL.layers), X, 3, {"t": jnp.ones(())}),
        "Argument 3 has another structure",
    ),
    "number": (lambda: (MODEL, X, 3), "compiled for 4 arguments; got 3"),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_arguments_it_was_not_compiled_for_are_named(compiled, name):
    make_args, message = MISMATCHES[name]
    with pytest.raises(ValueError, match=message):
        compiled(*make_args())


def test_shapes_are_enough_and_modules_with_weights_too():
    model = eqx.filter_eval_shape(lambda key: eqx.nn.MLP(3, 2, 8, 1, key=key), jr.key(0))
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    from_shapes = compile_ahead(lambda m, x: m(x), model, shape)
    bound = compile_ahead(MODEL, shape)
    assert jnp.allclose(from_shapes.result()(MODEL, X), MODEL(X), atol=1e-6)
    assert jnp.allclose(bound.result()(X), MODEL(X), atol=1e-6)
    key = compile_ahead(lambda key: jr.normal(key), jr.key(0)).result()
    assert key(jr.key(5)) == jr.normal(jr.key(5))
    with pytest.raises(TypeError, match="dot_general"):  # Tracing errors come at once, not from the future.
        compile_ahead(MODEL, jax.ShapeDtypeStruct((4,), jnp.float32))


def test_the_main_thread_keeps_running_while_xla_compiles():
    """Ticks of a millisecond while a program of many operations compiles; a blocked thread would see next to none."""
    big = eqx.nn.MLP(16, 16, 32, 20, key=jr.key(1), activation=jnp.tanh)
    unseen = time.time() % 1000  # So that no cache has the program.
    loss = eqx.filter_grad(lambda m, x: jnp.sum(unseen * jax.vmap(m)(x) ** 2))
    future = compile_ahead(loss, big, jnp.ones((4, 16)))
    start = last = time.perf_counter()
    ticks, longest = 0, 0.0
    while not future.done():
        time.sleep(0.001)
        now = time.perf_counter()
        ticks, longest, last = ticks + 1, max(longest, now - last), now
    assert ticks >= 10 and longest < 0.5 * (last - start), f"{ticks} ticks, {longest:.3f} of {last - start:.3f} s"

    async def wait():
        return await asyncio.wrap_future(compile_ahead(lambda x: x + 1, X))

    assert jnp.array_equal(asyncio.run(wait())(X), X + 1)


def test_cache_switch_works_in_the_middle_of_a_process(tmp_path):
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in names}
    try:
        enable_compilation_cache(tmp_path / "new" / "cache", min_compile_seconds=0)
        jax.block_until_ready(jax.jit(lambda x: jnp.sin(x) * 17.25)(X))
        assert any((tmp_path / "new" / "cache").iterdir())
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match="`path` must be a directory"):
            enable_compilation_cache(tmp_path / "file")
        with pytest.raises(ValueError, match="`min_compile_seconds` must not be negative"):
            enable_compilation_cache(tmp_path, min_compile_seconds=-1)
    finally:
        enable_compilation_cache(before[names[0]])
        for name, value in before.items():
            jax.config.update(name, value)


def test_export_with_an_open_batch_keeps_gradients():
    (batch,) = symbolic_sizes("batch")
    data = export(jax.vmap(MODEL), jax.ShapeDtypeStruct((batch, 3), jnp.float32))
    loaded = load_exported(data)
    for size in (1, 5):
        x = jr.normal(jr.key(size), (size, 3))
        assert jnp.allclose(loaded(x), jax.vmap(MODEL)(x), atol=1e-6)
        gradient, expected = (jax.grad(lambda x, f=f: jnp.sum(f(x) ** 2))(x) for f in (loaded, jax.vmap(MODEL)))
        assert jnp.allclose(gradient, expected, atol=1e-5)


def test_export_with_free_weights_is_differentiable_by_them():
    loaded = load_exported(export(lambda model, x: model(x), MODEL, X))
    ours = eqx.filter_grad(lambda m: jnp.sum(loaded(m, X) ** 2))(MODEL)
    assert eqx.tree_equal(ours, eqx.filter_grad(lambda m: jnp.sum(m(X) ** 2))(MODEL), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_export_of_a_graph_layer_with_open_node_and_edge_counts():
    """As users write it: a plain edge array, whose sizes are open; type checks are on again afterwards."""
    nodes, edges = symbolic_sizes("nodes, edges")
    conv = GCNConv(2, 3, key=jr.key(0))
    data = export(conv, jax.ShapeDtypeStruct((nodes, 2), jnp.float32), jax.ShapeDtypeStruct((2, edges), jnp.int32))
    loaded = load_exported(data)
    for num_nodes, edge_index in ((4, [[0, 1, 2], [1, 1, 3]]), (2, [[0], [1]])):
        x, edge_index = jr.normal(jr.key(0), (num_nodes, 2)), jnp.array(edge_index)
        assert jnp.allclose(loaded(x, edge_index), conv(x, edge_index), atol=1e-6)
        gradient, expected = (jax.grad(lambda x, f=f, e=edge_index: jnp.sum(f(x, e) ** 2))(x) for f in (loaded, conv))
        assert jnp.allclose(gradient, expected, atol=1e-5)
    with pytest.raises(Exception, match="Type-check error"):
        conv("no array", edge_index)  # pyright: ignore[reportArgumentType]


def test_export_named_errors():
    data = export(lambda m, x: m(x), MODEL, X)
    loaded = load_exported(data)
    with pytest.raises(ValueError, match=r"argument 1\.shape\[0\] .* expected \(3,\) and called with \(2,\)"):
        loaded(MODEL, X[:2])
    with pytest.raises(ValueError, match="exported for the arrays"):
        loaded(X)
    with pytest.raises(ValueError, match=r"'0\.activation': 'relu'.*'0\.activation': 'tanh'"):
        loaded(eqx.tree_at(lambda m: m.activation, MODEL, jnp.tanh), X)
    with pytest.raises(ValueError, match=r"`fn` must return arrays in tuples.*got a MLP"):
        export(lambda x: MODEL, X)
    with pytest.raises(ValueError, match="`data` must come from `export`"):
        load_exported(b"something else")
    for damaged in (data[:-50], data[:-9] + b"x" + data[-8:], data[:60]):
        with pytest.raises(ValueError, match=r"`data` is damaged: its .* bytes are not those"):
            load_exported(damaged)
    with pytest.raises(ValueError, match=r"calls back into Python.*EQX_ON_ERROR=off"):
        export(lambda x: eqx.error_if(x, jnp.any(x < 0), "negative"), X)


def test_the_missing_extra_is_named(monkeypatch):
    data = export(jnp.sin, X)
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ImportError, match=r"`export` needs the package `flatbuffers`.*\[export\]"):
        export(jnp.sin, X)
    with pytest.raises(ImportError, match="`load_exported` needs the package `flatbuffers`"):
        load_exported(data)


REMEDY = """
import equinox as eqx, jax.numpy as jnp
from eqx_dynamics.transform import export, load_exported
f = load_exported(export(lambda x: eqx.error_if(2 * x, jnp.any(x < 0), "negative"), jnp.ones(2)))
print(f(jnp.ones(2)).sum(), f(-jnp.ones(2)).sum())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "printed"), [("off", "4.0 -4.0"), ("nan", "4.0 nan")])
def test_the_remedy_for_runtime_checks_works(mode, printed):
    env = {**os.environ, "EQX_ON_ERROR": mode, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", REMEDY], env=env, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == printed


CACHED = """
import sys, time, jax, jax.numpy as jnp, jax.random as jr, equinox as eqx
from eqx_dynamics.transform import enable_compilation_cache
enable_compilation_cache(sys.argv[1], min_compile_seconds=0.1)
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("cache_hits") else None)
model = eqx.nn.MLP(16, 16, 32, 20, key=jr.key(0))
jax.block_until_ready(eqx.filter_jit(eqx.filter_grad(lambda m, x: jnp.sum(jax.vmap(m)(x))))(model, jnp.ones((4, 16))))
print(len(hits))
"""


@pytest.mark.slow
def test_a_second_process_finds_the_program_in_the_cache(tmp_path):
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", CACHED, str(tmp_path)]
    hits = [int(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout) for _ in range(2)]
    assert hits[0] == 0 and hits[1] >= 1
