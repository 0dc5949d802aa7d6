"""Activity as a moving picture."""

from typing import Any

import numpy as np

from .._extras import need
from ._spikes import Series, axes_or_new


def animate_activity(
    values: Series,
    *,
    shape: tuple[int, int] | None = None,
    dt: float | int = 1.0,
    label: str = "activity",
    interval: float | int = 100.0,
    ax: Any = None,
) -> Any:
    """A sheet of neurons, one frame a step: spikes, membranes or rates as brightness.

    `animate_activity(spikes).save("spikes.gif", writer="pillow")` writes it.

    **Arguments:**

    - `values`: `(time, neurons)` or `(time, height, width)`.
    - `shape`: `(height, width)` to lay the neurons out in; by default the squarest sheet that they fill.
    - `dt`: length of a step, ms.
    - `label`: what the brightness is, with its unit.
    - `interval`: how long a frame is shown, in ms of the viewer's time.
    - `ax`: matplotlib `Axes` to draw on; None makes a figure.

    **Returns:** a `matplotlib.animation.FuncAnimation`. Keep it until it is saved or shown.

    **Raises:** `ValueError` for values that do not fill the sheet; `ImportError` naming the extra `plot`.
    """
    frames = np.asarray(values, float)
    if frames.ndim not in (2, 3) or frames.size == 0:
        raise ValueError(f"`values` must be (time, neurons) or (time, height, width); got shape {frames.shape}.")
    if frames.ndim == 2 or shape is not None:
        num_neurons = int(np.prod(frames.shape[1:]))
        shape = _squarest(num_neurons) if shape is None else shape
        if shape[0] * shape[1] != num_neurons:
            raise ValueError(f"`shape` must hold the {num_neurons} neurons; got {shape}.")
        frames = frames.reshape(len(frames), *shape)
    animation = need("matplotlib.animation", extra="plot", user="animate_activity")
    ax = axes_or_new(ax, "animate_activity", figsize=(4.8, 4.0))
    image = ax.imshow(frames[0], cmap="viridis", vmin=frames.min(), vmax=frames.max() or 1.0, interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label=label)
    ax.set(xlabel="neuron, across", ylabel="neuron, down")

    def draw(step: int) -> tuple[Any]:
        image.set_data(frames[step])
        ax.set_title(f"{step * dt:g} ms", loc="left")
        return (image,)

    return animation.FuncAnimation(ax.figure, draw, frames=len(frames), interval=interval, blit=False)


def _squarest(num_neurons: int) -> tuple[int, int]:
    """The two factors that are closest to each other."""
    height = next(h for h in range(int(np.sqrt(num_neurons)), 0, -1) if num_neurons % h == 0)
    return height, num_neurons // height
