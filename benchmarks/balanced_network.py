"""Ten thousand neurons, ten million synapses: seconds simulated per second, ours and other simulators.

    python benchmarks/balanced_network.py --peer ours        # model and wiring of `examples/balanced_network.py`
    python benchmarks/balanced_network.py --peer brainevent  # needs brainevent and numba
    python benchmarks/balanced_network.py --peer brian2      # needs brian2 and a C++ compiler (its standalone mode)
    python benchmarks/balanced_network.py --part synapses    # of ours or brainevent: the product of spikes and rows

One peer a process, each where it is installed. All simulate Brunel's network: 10,000 leaky integrate-and-fire neurons,
1,000 inputs each drawn with replacement, delays of 1.5 ms, Poisson input, steps of 0.1 ms. The rate is printed: they
agree, at either `--point`. Compiling and wiring are not timed.
"""

import argparse
import json
import math
import pathlib
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


N, EXCITATORY, INPUTS = 10_000, 8_000, 1_000
DELAY, DT, TAU = 1.5, 0.1, 20.0  # ms


class Point(NamedTuple):
    """Excitatory weight in mV, how much stronger inhibition is, input relative to what just reaches the threshold."""

    weight: float
    g: float
    drive: float

    @property
    def external(self) -> float:
        """Spikes a ms that a neuron gets from outside; the threshold is 20 mV."""
        return self.drive * 20.0 / (self.weight * TAU)


POINTS = {"43 Hz": Point(0.1, 5.0, 2.0), "6 Hz": Point(0.2, 8.0, 1.5)}


def rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Compressed rows, one per sender: pointers and receivers."""
    rng = np.random.default_rng(seed)
    excitatory = rng.integers(0, EXCITATORY, (N, round(0.8 * INPUTS)))
    inhibitory = rng.integers(EXCITATORY, N, (N, round(0.2 * INPUTS)))
    senders = np.concatenate([excitatory, inhibitory], axis=1)
    order = np.argsort(senders.ravel(), kind="stable")
    pointers = np.concatenate([[0], np.cumsum(np.bincount(senders.ravel(), minlength=N))])
    return pointers.astype(np.int32), (order // INPUTS).astype(np.int32)


def best_of(run: Callable[[int], float], duration: float, repeats: int) -> tuple[float, float]:
    """Simulated seconds per second of the best of some runs after one to settle, and the rate in Hz."""
    run(0)
    seconds, rates = [], []
    for repeat in range(repeats):
        start = time.perf_counter()
        rates.append(run(1 + repeat))
        seconds.append(time.perf_counter() - start)
    return duration / 1000 / min(seconds), float(np.mean(rates))


def ours(point: Point, duration: float, repeats: int) -> tuple[float, float]:
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))  # before this file, which has its name
    import equinox as eqx
    import jax
    import jax.random as jr

    from balanced_network import BalancedNetwork, Config
    from eqx_dynamics import scan

    network = BalancedNetwork(Config(weight=point.weight, g=point.g, drive=point.drive), jr.key(0))
    states = [network.init_state(key=jr.key(1))]
    num_steps = round(duration / DT)

    @eqx.filter_jit
    def simulate(network, state, key):
        (shares, _), state = scan(network, None, state, length=num_steps, key=key)
        return shares.mean(), state

    def run(index: int) -> float:
        share, states[0] = jax.block_until_ready(simulate(network, states[0], jr.key(2 + index)))
        return float(share) * 1000 / DT

    return best_of(run, duration, repeats)


def brainevent(point: Point, duration: float, repeats: int) -> tuple[float, float]:
    """Its event-driven product of compressed rows, in a `lax.scan` with the neurons and delays written out."""
    import brainevent as be
    import jax
    import jax.numpy as jnp
    import jax.random as jr

    pointers, receivers = rows(0)
    weights = np.full(len(receivers), point.weight, np.float32)
    weights[pointers[EXCITATORY] :] *= -point.g
    matrix = be.CSR((jnp.asarray(weights), jnp.asarray(receivers), jnp.asarray(pointers)), shape=(N, N))
    mean = point.external * DT
    counts = np.cumsum([math.exp(-mean) * mean**k / math.factorial(k) for k in range(20)]).astype(np.float32)
    keep, lag, held = math.exp(-DT / TAU), round(DELAY / DT), round(2.0 / DT)
    num_steps = round(duration / DT)

    def step(carry, key):
        v, left, line, at = carry
        external = (jr.uniform(key, (N, 1)) > counts[None]).sum(-1)  # by inversion, as ours; `jr.poisson` is slower
        current = be.BinaryArray(line[at]) @ matrix + point.weight * external
        v = jnp.where(left > 0, v, keep * v + current)
        fired = (v >= 20.0) & (left <= 0)
        carry = jnp.where(fired, 10.0, v), jnp.where(fired, held, left - 1), line.at[at].set(fired), (at + 1) % lag
        return carry, fired.mean()

    state = [(20 * jr.uniform(jr.key(1), (N,)), jnp.zeros(N, jnp.int32), jnp.zeros((lag, N), bool), jnp.int32(0))]
    simulate = jax.jit(lambda state, key: jax.lax.scan(step, state, jr.split(key, num_steps)))

    def run(index: int) -> float:
        state[0], shares = jax.block_until_ready(simulate(state[0], jr.key(2 + index)))
        return float(shares.mean()) * 1000 / DT

    return best_of(run, duration, repeats)


def brian2(point: Point, duration: float, repeats: int) -> tuple[float, float]:
    import tempfile

    import brian2 as b

    rates, speeds = [], []
    pointers, receivers = rows(0)
    senders = np.repeat(np.arange(N), np.diff(pointers))
    for _ in range(repeats):
        b.set_device("cpp_standalone", build_on_run=False)
        b.defaultclock.dt = DT * b.ms
        neurons = b.NeuronGroup(
            N,
            "dv/dt = -v / (20*ms) : volt (unless refractory)",
            threshold="v >= 20*mV",
            reset="v = 10*mV",
            refractory=2 * b.ms,
            method="exact",
        )
        neurons.v = np.random.default_rng(1).random(N) * 20 * b.mV
        excites = senders < EXCITATORY
        parts = [(excites, f"v += {point.weight}*mV"), (~excites, f"v -= {point.g * point.weight}*mV")]
        synapses = [b.Synapses(neurons, neurons, on_pre=effect, delay=DELAY * b.ms) for _, effect in parts]
        for group, (chosen, _) in zip(synapses, parts, strict=True):
            group.connect(i=senders[chosen], j=receivers[chosen])
        drive = b.PoissonInput(neurons, "v", 800, point.external / 0.8 * b.Hz, weight=point.weight * b.mV)
        spikes = b.SpikeMonitor(neurons, record=False)
        network = b.Network(neurons, *synapses, drive, spikes)
        network.run(duration * b.ms)
        b.device.build(directory=tempfile.mkdtemp(), run=True, with_output=False)
        speeds.append(duration / 1000 / b.device._last_run_time)
        rates.append(spikes.num_spikes / N / duration * 1000)
        b.device.reinit()
    return max(speeds), float(np.mean(rates))


def synapses(peer: str, point: Point, rate: float, repeats: int) -> float:
    """Microseconds that a step's spikes take through the ten million synapses, drawn at a rate in Hz; nothing else."""
    import jax
    import jax.numpy as jnp

    pointers, receivers = rows(0)
    spikes = np.random.default_rng(1).random((1000, N)) < rate * DT / 1000
    weights = np.where(np.arange(N) < EXCITATORY, point.weight, -point.g * point.weight).astype(np.float32)
    if peer == "ours":
        from eqx_dynamics.spiking import SparseConnection

        ones = np.ones(len(receivers), np.float32)
        connection = SparseConnection.from_csr(pointers, receivers, ones, N)
        product = SparseConnection(connection.targets, jnp.asarray(weights)[:, None], N)
        xs = jnp.asarray(spikes, jnp.float32)
    elif peer == "brainevent":
        import brainevent as be

        values = jnp.asarray(np.repeat(weights, np.diff(pointers)))
        matrix = be.CSR((values, jnp.asarray(receivers), jnp.asarray(pointers)), shape=(N, N))
        product = lambda fired: be.BinaryArray(fired) @ matrix  # noqa: E731
        xs = jnp.asarray(spikes)
    else:
        raise SystemExit("`--part synapses` measures ours and brainevent.")
    run = jax.jit(lambda xs: jax.lax.map(product, xs))
    jax.block_until_ready(run(xs))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run(xs))
        seconds.append(time.perf_counter() - start)
    return 1e6 * min(seconds) / len(spikes)


PEERS = {"ours": ours, "brainevent": brainevent, "brian2": brian2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=tuple(PEERS), default="ours")
    parser.add_argument("--duration", type=float, default=300.0, help="ms of network time a run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--point", choices=tuple(POINTS), default="43 Hz", help="the rate in theory")
    parser.add_argument("--part", choices=("network", "synapses"), default="network")
    args = parser.parse_args()
    if args.part == "synapses":
        microseconds = synapses(args.peer, POINTS[args.point], float(args.point.split()[0]), 5 * args.repeats)
        return print(json.dumps({"peer": args.peer, "us a step": round(microseconds, 1), "at": args.point}))
    speed, rate = PEERS[args.peer](POINTS[args.point], args.duration, args.repeats)
    print(json.dumps({"peer": args.peer, "simulated s per s": round(speed, 3), "rate (Hz)": round(rate, 1)}))


if __name__ == "__main__":
    main()
