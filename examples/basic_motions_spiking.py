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

import tyro

from eqx_dynamics.datasets import basic_motions
from japanese_vowels import study


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
    accuracy = study(config, basic_motions(), "basic_motions.png")
    assert accuracy["ALIF"] >= 0.92, f"the spiking network should tell the motions apart; got {accuracy}"
    return {f"{name} test accuracy": value for name, value in accuracy.items()}


if __name__ == "__main__":
    main(tyro.cli(Config))
