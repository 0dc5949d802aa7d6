"""Standing, running, walking or badminton? A smart watch read by recurrent spiking neurons, and a GRU as large.

Data: BasicMotions (Bagnall et al., 2018; shipped with the package): four students' 40 trials to learn from and 40 to be
tested on, 10 s of accelerometer and gyroscope at 10 Hz. Steps are 100 ms, so membranes forget as fast as they may, to
see the rhythm of a gait, and thresholds remember seconds.
Expected: 0.98 of the test trials are named right by spikes and all by the GRU, which has three times the weights
(chance 0.25); asserted: spikes at least 0.92. Run time: half a minute on two cores. Picture: `basic_motions.png` in
`demo_output/`.
Reference: Bellec, Salaj, Subramoney, Legenstein and Maass, NeurIPS 2018 (recurrent networks of ALIF neurons).
"""

import pathlib
from dataclasses import dataclass

import jax.random as jr
import tyro

from eqx_dynamics.datasets import basic_motions
from japanese_vowels import compare, make_alif, make_gru, plot


@dataclass(frozen=True)
class Config:
    hidden: int = 48
    tau_mem: float = 100.0  # ms
    tau_adapt: float = 2000.0  # ms
    noise: float = 0.3  # standard deviations, added to the samples in training
    learning_rate: float = 1e-2
    batch_size: int = 20
    epochs: int = 80
    seed: int = 0
    output: pathlib.Path = pathlib.Path("demo_output")


def main(config: Config) -> dict[str, float]:
    config.output.mkdir(parents=True, exist_ok=True)
    raw = basic_motions()
    parts = raw[0].standardize(), raw[1].standardize(like=raw[0])
    dt = 1000 * raw[0].time_step
    alif_key, gru_key, train_key = jr.split(jr.key(config.seed), 3)
    taus = {"tau_mem": config.tau_mem, "tau_adapt": config.tau_adapt}
    models = {
        "ALIF": make_alif(6, config.hidden, 4, **taus, dt=dt, key=alif_key),
        "GRU": make_gru(6, config.hidden, 4, key=gru_key),
    }
    trained, accuracy, predicted = compare(models, parts, config, train_key)
    plot(config.output / "basic_motions.png", trained["ALIF"], parts[1], predicted, dt)
    assert accuracy["ALIF"] >= 0.92, f"the spiking network should tell the motions apart; got {accuracy}"
    return {f"{name} test accuracy": value for name, value in accuracy.items()}


if __name__ == "__main__":
    main(tyro.cli(Config))
