"""`model.to(device)`: arrays are placed by JAX; to use several devices, split the batch over a mesh.

The document's "multi-device parallelization with pmap" is done with a mesh: parameters replicated, windows split.
"""

import contextlib

import jax
import jax.random as jr
import numpy as np
import optax

from eqx_dynamics import tidhy
from eqx_dynamics.parallel import data_mesh
from eqx_dynamics.training import fit, make_step


def main() -> None:
    with contextlib.suppress(RuntimeError):  # devices can be chosen only before the first use of JAX
        jax.config.update("jax_num_cpu_devices", 2)
    model = tidhy.TiDHy.recommended(6, 4, 3, 3, 7, key=jr.key(0))
    windows = [jr.normal(jr.key(1), (4, 6, 6))] * 3
    histories = []
    for mesh in (None, data_mesh()):
        step = make_step(tidhy.TiDHyLoss(tidhy.Inference()), optax.sgd(1e-3), mesh=mesh)
        _, history = fit(step.init(model, key=jr.key(2)), step, windows, steps=3, steps_per_dispatch=3)
        histories.append(history["loss"])
    np.testing.assert_allclose(histories[0], histories[1], rtol=1e-3)
    print(f"{jax.device_count()} devices give the losses of one: {histories[1].round(2)}")


if __name__ == "__main__":
    main()
