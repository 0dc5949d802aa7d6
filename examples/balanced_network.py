"""Why do cortical neurons fire irregularly? Ten thousand neurons whose excitation and inhibition balance.

Model: Brunel's network A in its asynchronous irregular state: 8,000 excitatory and 2,000 inhibitory neurons, each
hearing 800 and 200 of them (10 million synapses), 0.2 mV a spike, inhibition 8 times as strong, 1.5 ms delays, Poisson
input 1.5 times what just reaches the threshold. Theory: the rate and the irregularity (CV of the intervals) that
mean-field equations give without any simulation, for inputs that are white noise.
Expected: 6.4 Hz (theory 6.7) and CV 1.00 (theory 1.02); asserted within 10 % and 0.15. With `--g 5 --drive 2
--weight 0.1` (Brunel's figure 8C) the rate is 43 Hz, as in theory, but intervals are more regular than it says: spike
trains of such neurons are not white noise.
Run time: under a minute on two cores. Picture: `balanced_network.png` in `demo_output/`.
Reference: Brunel, J. Comput. Neurosci. 2000, eqs. 3-5, 21 and the CV of its appendix.
"""

import pathlib
import time
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import tyro
from jaxtyping import Array, Bool, Float, PRNGKeyArray
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import erfcx
from scipy.stats import poisson

from eqx_dynamics import AbstractCell, scan
from eqx_dynamics.plot import plot_activity, plot_raster, plot_rates
from eqx_dynamics.spiking import (
    ConstantGain,
    Delay,
    DelayState,
    LIFCell,
    LIFState,
    Refractory,
    SparseConnection,
    ValueReset,
)


@dataclass(frozen=True)
class Config:
    num_neurons: int = 10_000  # four fifths excite
    probability: float = 0.1
    weight: float = 0.2  # mV, of an excitatory spike
    g: float = 8.0  # inhibitory spikes are so much stronger
    drive: float = 1.5  # external input, in units of what just reaches the threshold
    tau_mem: float = 20.0  # ms
    threshold: float = 20.0  # mV above rest
    reset: float = 10.0  # mV
    refractory: float = 2.0  # ms
    delay: float = 1.5  # ms
    dt: float = 0.1  # ms
    warm_up: float = 200.0  # ms
    duration: float = 3000.0  # ms
    seed: int = 0
    output: pathlib.Path = pathlib.Path("demo_output")

    @property
    def excitatory_inputs(self) -> float:  # of a neuron
        return 0.8 * self.num_neurons * self.probability

    @property
    def external_rate(self) -> float:  # spikes a ms that all of a neuron's external synapses bring
        return self.drive * self.threshold / (self.weight * self.tau_mem)


def make_synapses(config: Config, key: PRNGKeyArray) -> SparseConnection:
    """Every neuron hears as many others of each kind, drawn at random: the theory's neurons are alike."""
    n, num_excitatory = config.num_neurons, round(0.8 * config.num_neurons)
    rng = np.random.default_rng(np.asarray(jr.bits(key, (4,))))
    excitatory = rng.integers(0, num_excitatory, (n, round(config.excitatory_inputs)))
    inhibitory = rng.integers(num_excitatory, n, (n, round(config.excitatory_inputs / 4)))
    senders = np.concatenate([excitatory, inhibitory], axis=1)
    order = np.argsort(senders.ravel(), kind="stable")
    pointers = np.concatenate([[0], np.cumsum(np.bincount(senders.ravel(), minlength=n))])
    rows = SparseConnection.from_csr(pointers, order // senders.shape[1], np.ones(order.size), n)
    weights = jnp.where(jnp.arange(n) < num_excitatory, config.weight, -config.g * config.weight)
    return SparseConnection(rows.targets, weights[:, None], n)


class NetworkState(eqx.Module):
    neurons: LIFState
    travelling: DelayState
    spikes: Float[Array, " neurons"]


class BalancedNetwork(AbstractCell[NetworkState]):
    """Spikes travel, arrive through sparse synapses beside Poisson input, and make new spikes."""

    neurons: LIFCell
    delay: Delay
    synapses: SparseConnection
    weight: float
    highest: float  # mV, of the membranes at the start
    counts: Float[Array, " counts"]  # distribution function of the external spikes of one step

    def __init__(self, config: Config, key: PRNGKeyArray):
        n, dt, refractory = config.num_neurons, config.dt, Refractory(round(config.refractory / config.dt))
        levels = {"threshold": config.threshold, "reset": ValueReset(config.reset)}
        # A spike jumps the membrane.
        self.neurons = LIFCell(n, config.tau_mem, **levels, input_gain=ConstantGain(), refractory=refractory, dt=dt)
        self.delay = Delay(n, config.delay - dt, dt=dt)  # one step passes anyway
        self.synapses = make_synapses(config, key)
        self.weight, self.highest = config.weight, config.threshold
        mean = config.external_rate * dt
        self.counts = jnp.asarray(poisson.cdf(np.arange(float(poisson.ppf(1 - 1e-7, mean))), mean), jnp.float32)

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> NetworkState:
        """Membranes anywhere between rest and threshold."""
        state, n = self.neurons.init_state(shape), self.neurons.size[0]
        if key is not None:
            start = jr.uniform(key, (*shape, n), maxval=self.highest)
            state = eqx.tree_at(lambda s: s.membrane, state, start)
        return NetworkState(state, self.delay.init_state(shape), jnp.zeros((*shape, n)))

    def __call__(
        self, x: None, state: NetworkState, *, key: PRNGKeyArray | None = None
    ) -> tuple[tuple[Float[Array, ""], Bool[Array, " watched"]], NetworkState]:
        """One step; puts out the share of neurons that fired, and which of the first thousand did."""
        assert key is not None
        arriving, travelling = self.delay(state.spikes, state.travelling)
        uniform = jr.uniform(key, state.spikes.shape)
        external = (uniform[:, None] > self.counts[None]).sum(-1).astype(jnp.float32)
        current = self.synapses(arriving) + self.weight * external
        spikes, neurons = self.neurons(current, state.neurons)
        return (spikes.mean(), spikes[:1000] > 0), NetworkState(neurons, travelling, spikes)


def theory(config: Config) -> tuple[float, float]:
    """Mean-field rate (Hz) and CV: every neuron gets Gaussian input whose mean and variance its own rate makes."""
    tau, inputs, j, g = config.tau_mem, config.excitatory_inputs, config.weight, config.g
    external = config.external_rate / inputs

    def limits(rate: float) -> tuple[float, float]:  # spikes a ms to the ends of the integrals
        mean = tau * inputs * j * (external + rate * (1 - 0.25 * g))
        deviation = np.sqrt(tau * inputs * j**2 * (external + rate * (1 + 0.25 * g**2)))
        return (config.reset - mean) / deviation, (config.threshold - mean) / deviation

    def firing(rate: float) -> float:
        low, high = limits(rate)
        return 1 / (config.refractory + tau * np.sqrt(np.pi) * quad(lambda u: erfcx(-u), low, high)[0])

    rate: float = brentq(lambda r: firing(r) - r, 1e-6, 0.4)  # pyright: ignore[reportAssignmentType]
    low, high = limits(rate)

    def inner(x: float) -> float:  # e^{x^2} times the inner integral, without overflow
        return quad(lambda y: np.exp(x**2 - y**2) * erfcx(-y) ** 2, min(-8.0, x - 8), x)[0]

    variance = 2 * np.pi * (rate * tau) ** 2 * quad(inner, low, high)[0]
    return 1000 * rate, float(np.sqrt(variance))


def irregularity(watched: np.ndarray) -> float:
    """CV of the intervals of all neurons together: they are alike, and few spikes of one alone would bias it."""
    intervals = np.concatenate([np.diff(np.flatnonzero(train)) for train in watched.T])
    return float(intervals.std() / intervals.mean())


def main(config: Config) -> dict[str, float]:
    config.output.mkdir(parents=True, exist_ok=True)
    keys = jr.split(jr.key(config.seed), 4)
    network = BalancedNetwork(config, keys[0])

    @eqx.filter_jit
    def run(network: BalancedNetwork, state: NetworkState, num_steps: int, key: PRNGKeyArray):
        return scan(network, None, state, length=num_steps, key=key)

    _, state = run(network, network.init_state(key=keys[1]), round(config.warm_up / config.dt), keys[2])
    num_steps = round(config.duration / config.dt)
    arguments = network, state, num_steps, keys[3]
    simulate = run.lower(*arguments).compile()
    start = time.perf_counter()
    (shares, watched), _ = jax.block_until_ready(simulate(*arguments))
    seconds = time.perf_counter() - start

    rate, cv = 1000 / config.dt * float(shares.mean()), irregularity(np.asarray(watched))
    expected_rate, expected_cv = theory(config)
    figure, axes = plt.subplots(3, 1, figsize=(9, 9), layout="constrained")
    end = round(300 / config.dt)
    plot_raster(watched[:end, :100], dt=config.dt, ax=axes[0])
    plot_activity({"10,000 neurons (dashed: theory)": shares[:end, None]}, dt=config.dt, window=1.0, ax=axes[1])
    axes[1].axhline(expected_rate, color="C3", linestyle="--")  # theory
    plot_rates({"1,000 neurons": watched}, dt=config.dt, bins=int(watched.sum(0).max()), ax=axes[2])  # by one spike
    figure.savefig(config.output / "balanced_network.png", dpi=110)
    print(f"rate {rate:.1f} Hz (theory {expected_rate:.1f}), CV {cv:.2f} (theory {expected_cv:.2f})")
    print(
        f"{config.duration / 1000:g} s simulated in {seconds:.1f} s; {config.duration / 1000 / seconds:.2f} s a second"
    )
    assert abs(rate / expected_rate - 1) < 0.1 and abs(cv - expected_cv) < 0.15, (rate, cv)
    return {"rate (Hz)": rate, "CV": cv}


if __name__ == "__main__":
    main(tyro.cli(Config))
