"""Every test runs under strict promotion rules, with shapes checked and two fake CPU devices."""

import gc
import itertools
import os
import pathlib

import equinox as eqx
import jax
import jax.random as jr
import pytest


_ROOT = pathlib.Path(__file__).parents[1]
_NUMBERS = itertools.count(1)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_compilation_cache_dir", os.environ.get("EQX_TEST_CACHE", str(_ROOT / ".cache" / "jax")))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("reference", "numbers that other libraries computed (tests/test_reference.py)")
    group.addoption(
        "--reference-dir", metavar="DIR", help="PyG or spiking cases: a folder with manifest.json and NPZ files"
    )
    group.addoption("--snn-reference", metavar="DIR", help="spiking cases: a folder with manifest.json and NPZ files")
    group.addoption("--tidhy-reference", metavar="FILE", help="TiDHy arrays: one NPZ file")


@pytest.fixture
def light_compilation():
    """For tests whose programs are tiny and run once: XLA spends half the time on them (measured on the laws)."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Compiled programs go with their module, or 100 tests: kept, they exhaust a process's memory maps (a crash)."""
    if nextitem is None or nextitem.path != item.path or next(_NUMBERS) % 100 == 0:
        eqx.clear_caches()
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def getkey():
    """A fresh, reproducible key at every call."""
    counter = iter(range(1_000_000))

    def next_key():
        return jr.fold_in(jr.key(0), next(counter))

    return next_key
