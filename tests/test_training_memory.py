"""`keep_freed_memory`: pages that a program touches for the first time, counted by the kernel, in fresh processes."""

import platform
import subprocess
import sys

import jax
import pytest

from eqx_dynamics.training import keep_freed_memory


# Prints what the call returned, and the megabytes of pages that the fourth run of a program with 72 MB of temporary
# memory touched for the first time.
PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from eqx_dynamics.training import keep_freed_memory

print(keep_freed_memory() if sys.argv[1] == "keep" else None)
x = jnp.ones((3000, 3000))
step = jax.jit(lambda x: jnp.cumsum(jnp.sort(x, axis=1), axis=0)[::7].sum())
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print((after - before) * resource.getpagesize() / 1e6)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the memory of other C libraries is left alone")
@pytest.mark.parametrize("mode", ["keep", "default"])
def test_programs_reuse_pages(mode):
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    returned, fresh = done.stdout.split()
    assert returned == ("True" if mode == "keep" else "None")
    assert float(fresh) < 5 if mode == "keep" else float(fresh) > 35, fresh


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="nothing happens there, early or late")
def test_too_late():
    jax.devices()
    with pytest.raises(RuntimeError, match=r"must be called before JAX makes an array .* right after the imports"):
        keep_freed_memory()


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
