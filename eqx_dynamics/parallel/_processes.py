"""Several processes, one run."""

import jax


def join_processes(address: str, *, num_processes: int, process_id: int, timeout: int = 60) -> None:
    """Make this process one of `num_processes` that train together; call it before anything else of JAX.

    Afterwards `jax.devices()` are those of all processes, so `data_mesh()` spans them, and `fit` runs in each of them
    with the same arguments: `ArrayData` must hold the same arrays everywhere, an iterator gives each process its own
    part of every batch. CPU processes talk through gloo.

    **Arguments:**

    - `address`: `host:port` of process 0, free there.
    - `num_processes`, `process_id`: how many there are, and which this is, from 0.
    - `timeout`: seconds to wait for the others.

    **Raises:** `ValueError` if the numbers do not fit.
    """
    if not 0 <= process_id < num_processes:
        raise ValueError(f"`process_id` must lie in [0, num_processes); got {process_id} of {num_processes}.")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        address, num_processes=num_processes, process_id=process_id, initialization_timeout=timeout
    )
