"""A custom C++ operation: one leaky integration step, with its gradient, and a pure JAX twin to compare with.

The linked tutorial used XLA's old custom calls; `jax.ffi` is the public form. Rarely worth it: jit fuses this step
anyway. Needs a C++ compiler; without one only the twin runs.
"""

import ctypes
import functools as ft
import pathlib
import shutil
import subprocess
import tempfile

import jax
import jax.numpy as jnp
import numpy as np


SOURCE = """
#include "xla/ffi/api/ffi.h"
namespace ffi = xla::ffi;

static ffi::Error Step(float decay, ffi::Buffer<ffi::F32> v, ffi::Buffer<ffi::F32> x, ffi::ResultBuffer<ffi::F32> out) {
  if (v.element_count() != x.element_count()) return ffi::Error::InvalidArgument("v and x must have the same size");
  for (size_t i = 0; i < v.element_count(); ++i) out->typed_data()[i] = decay * v.typed_data()[i] + x.typed_data()[i];
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(LeakyStep, Step, ffi::Ffi::Bind().Attr<float>("decay")
    .Arg<ffi::Buffer<ffi::F32>>().Arg<ffi::Buffer<ffi::F32>>().Ret<ffi::Buffer<ffi::F32>>());
"""


def twin(decay: float, v: jax.Array, x: jax.Array) -> jax.Array:
    return decay * v + x


@ft.partial(jax.custom_vjp, nondiff_argnums=(0,))
def leaky_step(decay: float, v: jax.Array, x: jax.Array) -> jax.Array:
    call = jax.ffi.ffi_call("leaky_step", jax.ShapeDtypeStruct(v.shape, v.dtype), vmap_method="broadcast_all")
    return jnp.asarray(call(v, x, decay=np.float32(decay)))


leaky_step.defvjp(
    lambda decay, v, x: (leaky_step(decay, v, x), None), lambda decay, _, g: (decay * g, g)
)  # linear: the transpose needs nothing saved


def main() -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        np.testing.assert_allclose(twin(0.9, jnp.ones(2), jnp.ones(2)), 1.9, rtol=1e-6)
        print("no C++ compiler: the twin alone")
        return
    with tempfile.TemporaryDirectory() as folder:
        source, library = pathlib.Path(folder, "leaky.cc"), pathlib.Path(folder, "leaky.so")
        source.write_text(SOURCE)
        flags = ["-std=c++17", "-O1", "-fPIC", "-shared", f"-I{jax.ffi.include_dir()}"]
        subprocess.run([compiler, *flags, source, "-o", library], check=True, capture_output=True)
        handle = ctypes.cdll.LoadLibrary(str(library))
        jax.ffi.register_ffi_target("leaky_step", jax.ffi.pycapsule(handle.LeakyStep), platform="cpu")
        with jax.default_device(jax.devices("cpu")[0]):
            v, x = jnp.arange(4.0), jnp.ones(4)
            np.testing.assert_allclose(jax.jit(leaky_step, static_argnums=0)(0.9, v, x), twin(0.9, v, x))
            many = jnp.stack([v, 2 * v])
            np.testing.assert_allclose(jax.vmap(lambda v: leaky_step(0.9, v, x))(many), twin(0.9, many, x[None]))
            np.testing.assert_allclose(
                jax.grad(lambda v: jnp.sum(leaky_step(0.9, v, x)))(v), np.full(4, 0.9), rtol=1e-6
            )
    print("jit, vmap and gradient of a C++ step, equal to the JAX twin")


if __name__ == "__main__":
    main()
