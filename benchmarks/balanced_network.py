"""Ten thousand neurons in balance: simulated seconds per second, ours and Brian2's and brainevent's.

    python benchmarks/balanced_network.py --peer ours
    python benchmarks/balanced_network.py --peer brian2      # its own environment: brian2, "numpy<2.2"
    python benchmarks/balanced_network.py --peer brainevent  # brainevent

Each peer runs the network of `examples/balanced_network.py` (10,000 neurons, 1,000 synapses onto each, steps of 0.1 ms)
after a warm-up that compiles, and prints rate and speed; the best of `--repeats` counts. Peers need not have the other
peers installed.
"""

import argparse
import pathlib
import sys
import time
from collections.abc import Callable


N, EXCITATORY, INDEGREE = 10_000, 8_000, (800, 200)
WEIGHT, G, DRIVE = 0.2, 8.0, 1.5  # mV, ratio, in units of the threshold
TAU, THRESHOLD, RESET, REFRACTORY, DELAY, DT = 20.0, 20.0, 10.0, 2.0, 1.5, 0.1  # ms and mV
EXTERNAL = DRIVE * THRESHOLD / (WEIGHT * TAU)  # spikes a ms


def ours(duration: float) -> Callable[[], float]:
    """Simulates `duration` ms and gives the mean rate, Hz."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))
    import equinox as eqx
    import jax.random as jr

    import balanced_network as example
    from eqx_dynamics import scan

    config = example.Config()
    network = example.BalancedNetwork(config, jr.key(0))
    run = eqx.filter_jit(lambda net, s, key: scan(net, None, s, length=round(duration / DT), key=key)[0][0].mean())
    state = network.init_state(key=jr.key(1))
    return lambda: 1000 / DT * float(run(network, state, jr.key(2)))


def brian2(duration: float) -> Callable[[], float]:
    import brian2 as b

    b.prefs.codegen.target = "cython"
    b.defaultclock.dt = DT * b.ms
    b.seed(0)
    equations = "dv/dt = -v / (20*ms) : 1 (unless refractory)"
    neurons = b.NeuronGroup(
        N, equations, threshold="v >= 20", reset="v = 10", refractory=REFRACTORY * b.ms, method="exact"
    )
    neurons.v = "20 * rand()"
    parts = []
    for group, indegree, weight in (
        (neurons[:EXCITATORY], INDEGREE[0], WEIGHT),
        (neurons[EXCITATORY:], INDEGREE[1], -G * WEIGHT),
    ):
        synapses = b.Synapses(group, neurons, on_pre=f"v_post += {weight}", delay=DELAY * b.ms)
        synapses.connect(p=indegree / len(group))
        parts.append(synapses)
    parts.append(b.PoissonInput(neurons, "v", 1000, EXTERNAL * b.Hz, weight=WEIGHT))
    monitor = b.PopulationRateMonitor(neurons)
    network = b.Network(neurons, monitor, *parts)
    network.run(10 * b.ms)

    def run() -> float:
        before = len(monitor.rate)
        network.run(duration * b.ms)
        return float((monitor.rate[before:] / b.Hz).mean())

    return run


def brainevent(duration: float) -> Callable[[], float]:
    """Its event-driven product with compressed rows, in a `lax.scan` with the neurons and delays written out."""
    import brainevent as be
    import jax
    import jax.numpy as jnp
    import jax.random as jr
    import numpy as np

    rng = np.random.default_rng(0)
    parts = [rng.integers(0, EXCITATORY, (N, INDEGREE[0])), rng.integers(EXCITATORY, N, (N, INDEGREE[1]))]
    senders = np.concatenate(parts, axis=1)
    order = np.argsort(senders.ravel(), kind="stable")
    pointers = np.concatenate([[0], np.cumsum(np.bincount(senders.ravel(), minlength=N))]).astype(np.int32)
    weights = np.where(np.sort(senders.ravel()) < EXCITATORY, WEIGHT, -G * WEIGHT).astype(np.float32)
    targets = (order // senders.shape[1]).astype(np.int32)
    matrix = be.CSR((jnp.asarray(weights), jnp.asarray(targets), jnp.asarray(pointers)), shape=(N, N))
    terms = np.cumsum([0, *np.log(np.arange(1, 20))]) - np.arange(20) * np.log(EXTERNAL * DT)
    counts = jnp.asarray(np.cumsum(np.exp(-EXTERNAL * DT - terms)), jnp.float32)
    keep, lag, held = float(np.exp(-DT / TAU)), round(DELAY / DT), round(REFRACTORY / DT)

    def step(carry, key):
        v, left, line, at = carry
        external = (jr.uniform(key, (N, 1)) > counts[None]).sum(-1)  # by inversion, as ours; jr.poisson is slower
        current = be.BinaryArray(line[at]) @ matrix + WEIGHT * external
        v = jnp.where(left > 0, v, keep * v + current)
        fired = (v >= THRESHOLD) & (left <= 0)
        carry = jnp.where(fired, RESET, v), jnp.where(fired, held, left - 1), line.at[at].set(fired), (at + 1) % lag
        return carry, fired.mean()

    start = (20 * jr.uniform(jr.key(1), (N,)), jnp.zeros(N, jnp.int32), jnp.zeros((lag, N), bool), 0)
    simulate = jax.jit(lambda key: jax.lax.scan(step, start, jr.split(key, round(duration / DT)))[1].mean())
    return lambda: 1000 / DT * float(simulate(jr.key(2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=("ours", "brian2", "brainevent"), required=True)
    parser.add_argument("--duration", type=float, default=1000.0, help="simulated ms")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    run = {"ours": ours, "brian2": brian2, "brainevent": brainevent}[options.peer](options.duration)
    rate, speeds = run(), []
    for _ in range(options.repeats):
        start, cpu = time.perf_counter(), time.process_time()
        rate = run()
        wall, busy = time.perf_counter() - start, time.process_time() - cpu
        speeds.append((options.duration / 1000 / wall, options.duration / 1000 / busy))
    wall, busy = (max(s[i] for s in speeds) for i in (0, 1))
    print(f"{options.peer}: {rate:.1f} Hz, {wall:.3f} simulated s per second, {busy:.3f} per CPU second", flush=True)


if __name__ == "__main__":
    main()
