"""Ten thousand neurons, ten million synapses: seconds simulated per second, ours and other simulators.

    python benchmarks/balanced.py --peer ours          # `examples/balanced_network.py`, its model and its wiring
    python benchmarks/balanced.py --peer brainevent    # needs brainevent, brainpy-state, numba
    python benchmarks/balanced.py --peer brian2        # needs brian2 and a C++ compiler (its standalone mode)

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
    sys.path.append(str(pathlib.Path(__file__).parents[1] / "examples"))
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
    import brainevent as be
    import brainpy.state as bp
    import brainstate as bs
    import braintools
    import brainunit as u
    import jax
    import jax.numpy as jnp

    bs.environ.set(dt=DT * u.ms)
    pointers, receivers = rows(0)
    split = pointers[EXCITATORY]
    positive = jnp.float32(point.weight), jnp.asarray(receivers[:split]), jnp.asarray(pointers[: EXCITATORY + 1])
    negative = (
        jnp.float32(-point.g * point.weight),
        jnp.asarray(receivers[split:]),
        jnp.asarray(pointers[EXCITATORY:] - split),
    )
    excite = be.CSR(positive, shape=(EXCITATORY, N))
    inhibit = be.CSR(negative, shape=(N - EXCITATORY, N))
    mean = point.external * DT
    counts = np.cumsum([math.exp(-mean) * mean**k / math.factorial(k) for k in range(16)]).astype(np.float32)

    class Network(bs.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            volt = {"V_th": 20 * u.mV, "V_reset": 10 * u.mV, "V_rest": 0 * u.mV, "spk_reset": "hard"}
            start = braintools.init.Uniform(0.0 * u.mV, 20.0 * u.mV)
            self.neurons = bp.LIFRef(N, tau=TAU * u.ms, tau_ref=2 * u.ms, V_initializer=start, **volt)
            self.delay = bs.nn.Delay(jax.ShapeDtypeStruct((N,), jnp.float32), DELAY * u.ms)

        def update(self, index):
            with bs.environ.context(t=index * DT * u.ms, i=index):
                fired = self.delay.retrieve_at_step(jnp.asarray(round(DELAY / DT) - 2)) > 0  # a step passes anyway
                arriving = be.BinaryArray(fired[:EXCITATORY]) @ excite + be.BinaryArray(fired[EXCITATORY:]) @ inhibit
                external = (bs.random.rand(N)[:, None] > counts[None]).sum(1).astype(jnp.float32)
                jump = (arriving + point.weight * external) / (
                    1 - math.exp(-DT / TAU)
                )  # mA through 1 Ohm, as a jump in mV
                spikes = self.neurons(jump * u.mA)
                self.delay.update(jax.lax.stop_gradient(spikes))
                return (spikes > 0.5).mean()

    network = Network()
    bs.nn.init_all_states(network)
    simulate = bs.transform.jit(lambda steps: bs.transform.for_loop(network.update, steps).mean())
    num_steps = round(duration / DT)

    def run(index: int) -> float:
        return float(jax.block_until_ready(simulate(jnp.arange(num_steps) + index * num_steps))) * 1000 / DT

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


PEERS = {"ours": ours, "brainevent": brainevent, "brian2": brian2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=tuple(PEERS), default="ours")
    parser.add_argument("--duration", type=float, default=300.0, help="ms of network time a run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--point", choices=tuple(POINTS), default="43 Hz", help="the rate in theory")
    args = parser.parse_args()
    speed, rate = PEERS[args.peer](POINTS[args.point], args.duration, args.repeats)
    print(json.dumps({"peer": args.peer, "simulated s per s": round(speed, 3), "rate (Hz)": round(rate, 1)}))


if __name__ == "__main__":
    main()
