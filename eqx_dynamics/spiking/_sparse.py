"""Sparse connections whose cost follows the number of spikes."""

import functools as ft
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._derivative import with_tangent
from .._scan import merge_time
from ._connections import value_of
from ._neuron import Input
from ._parallel import in_parallel
from ._parameter import ParameterLike, concrete, require


class SparseConnection(eqx.Module):
    r"""Synapses from few senders to few receivers: $y_i = \sum_j w_{ji} s_j$ over the pairs $(j, i)$ that exist.

    A stateless layer for `Sequential`, and a weight for `Recurrent`. Each sender's row holds the receivers it reaches,
    so that only the rows of neurons that fired are read.

    !!! note "Cost"
        On CPU a step visits the nonzero entries of its input, 16 at a time: 43 us for 10,000 neurons of 250 synapses
        of which 1 % fire, where visiting every synapse takes 2,301 us. Any number of spikes is exact; there is no
        buffer to overflow. On accelerators, and for derivatives, every synapse is visited. Memory is
        `in_features * degree` entries, `degree` the longest row.
    """

    targets: Int[Array, "senders degree"]
    weight: ParameterLike
    out_features: int = eqx.field(static=True)

    def __init__(self, targets: Int[Array, "senders degree"], weight: ParameterLike, out_features: int):
        """**Arguments:**

        - `targets`: for each sender the receivers it reaches; entries equal to `out_features` stand for none, where a
          row is shorter than the longest.
        - `weight`: one number, one per sender `(senders, 1)`, or one per synapse `(senders, degree)`; a JAX array is
          learned, a Python number is fixed, a parameter such as `Dale` keeps its range.
        - `out_features`: number of receivers.

        **Raises:** `ValueError` for targets out of range or weights that do not fit.
        """
        self.targets, self.weight, self.out_features = targets, weight, out_features

    def __check_init__(self):
        if self.out_features < 1:
            raise ValueError(f"`out_features` must be positive; got {self.out_features}.")
        known = concrete(self.targets)
        if known is not None and known.size and not (known.min() >= 0 and known.max() <= self.out_features):
            raise ValueError(
                f"`targets` must lie in [0, {self.out_features}) (or be {self.out_features}, for no synapse); got "
                f"{int(known.min())} to {int(known.max())}."
            )
        shape = value_of(self.weight).shape
        padded = (1,) * (2 - len(shape)) + shape
        if len(padded) != 2 or padded[0] not in (1, self.in_features) or padded[1] not in (1, self.targets.shape[1]):
            raise ValueError(
                f"`weight` must be one number, one per sender {(self.in_features, 1)} or one per synapse "
                f"{self.targets.shape}; got shape {shape}."
            )

    @property
    def in_features(self) -> int:
        """Number of senders."""
        return self.targets.shape[0]

    @classmethod
    def fixed_probability(
        cls,
        in_features: int,
        out_features: int,
        probability: float,
        weight: ParameterLike = 1.0,
        *,
        autapses: bool = True,
        key: PRNGKeyArray,
    ) -> "SparseConnection":
        """Each pair is connected with the same probability, independently of the others.

        The gaps between the receivers of a sender are drawn, so time and memory follow the number of synapses. A row
        has room for six standard deviations above their mean number, whatever the key; `trimmed()` gives back what no
        row uses.

        **Arguments:**

        - `probability`: of a synapse, in (0, 1].
        - `weight`: as above; `(in_features, 1)` arrays give every sender its weight. For one per synapse, replace
          `weight` of the result by an array of the shape of its `targets`.
        - `autapses`: whether neuron $i$ may reach neuron $i$; without them both sides need one size.

        **Raises:** `ValueError` for a probability out of range, or unequal sizes without autapses.
        """
        require(probability, "probability", above=0.0, up_to=1.0, unit="")
        if not autapses and in_features != out_features:
            raise ValueError(
                f"`autapses=False` needs as many receivers as senders; got {in_features} senders and {out_features} "
                "receivers."
            )
        columns = out_features if autapses else out_features - 1
        mean = columns * probability
        degree = min(columns, math.ceil(mean + 6 * math.sqrt(mean * (1 - probability)) + 6))
        if probability == 1:
            positions = jnp.broadcast_to(jnp.arange(columns, dtype=jnp.int32)[None], (in_features, columns))
        else:
            uniform = jr.uniform(key, (in_features, degree), minval=jnp.finfo(jnp.float32).tiny)
            gaps = jnp.minimum(jnp.floor(jnp.log(uniform) / math.log1p(-probability)), columns).astype(jnp.int32)
            positions = jnp.minimum(jnp.cumsum(gaps + 1, axis=1, dtype=jnp.int32) - 1, columns)
        exists = positions < columns
        if not autapses:
            skipped = positions >= jnp.arange(in_features, dtype=jnp.int32)[:, None]
            positions = positions + skipped.astype(jnp.int32)
        targets = jnp.where(exists, positions, out_features).astype(jnp.int32)
        return cls(targets, weight, out_features)

    @classmethod
    def from_csr(
        cls,
        pointers: Int[np.ndarray, " senders_plus_one"],
        targets: Int[np.ndarray, " synapses"],
        weight: Float[np.ndarray, " synapses"],
        out_features: int,
    ) -> "SparseConnection":
        """Compressed rows, one per SENDER: the receivers of sender `j` are `targets[pointers[j]:pointers[j + 1]]`.

        From SciPy, where `matrix` is (receivers, senders): `rows = matrix.T.tocsr()`, then
        `from_csr(rows.indptr, rows.indices, rows.data, matrix.shape[0])`.

        **Raises:** `ValueError` unless the pointers rise from 0 to the number of synapses.
        """
        pointers, targets = np.asarray(pointers), np.asarray(targets)
        lengths = np.diff(pointers)
        if pointers.size < 2 or pointers[0] != 0 or pointers[-1] != targets.size or (lengths < 0).any():
            raise ValueError(f"`pointers` must rise from 0 to the {targets.size} synapses; got {pointers.tolist()}.")
        rows = np.repeat(np.arange(lengths.size), lengths)
        slots = np.arange(targets.size) - np.repeat(pointers[:-1], lengths)
        shape = (lengths.size, max(1, int(lengths.max())))
        padded, weights = np.full(shape, out_features, np.int32), np.zeros(shape)
        padded[rows, slots], weights[rows, slots] = targets, weight
        return cls(jnp.asarray(padded), jnp.asarray(weights, dtype=float), out_features)

    @classmethod
    def from_dense(cls, weight: Float[np.ndarray, "receivers senders"] | Float[Array, "receivers senders"]):
        """The nonzero entries of a matrix laid out as `eqx.nn.Linear`'s."""
        rows = np.asarray(weight).T
        senders, receivers = np.nonzero(rows)
        pointers = np.concatenate([[0], np.cumsum(np.bincount(senders, minlength=rows.shape[0]))])
        return cls.from_csr(pointers, receivers, rows[senders, receivers], rows.shape[1])

    def trimmed(self) -> "SparseConnection":
        """Without the slots that no row uses: a step costs less. On the host.

        **Raises:** `ValueError` under a transformation, where sizes cannot depend on numbers.
        """
        known = concrete(self.targets)
        if known is None:
            raise ValueError("`trimmed` chooses a size by looking at numbers: call it outside `jit` and `vmap`.")
        exists = known < self.out_features
        first = np.argsort(~exists, axis=1, kind="stable")[:, : max(1, int(exists.sum(1).max()))]
        weight = value_of(self.weight)
        if weight.ndim == 2 and weight.shape[1] > 1:
            if not isinstance(self.weight, jax.Array):
                raise ValueError("`weight` must be an array, or one number per sender, to be trimmed.")
            return SparseConnection(
                jnp.take_along_axis(self.targets, first, axis=1),
                jnp.take_along_axis(self.weight, first, axis=1),
                self.out_features,
            )
        return SparseConnection(jnp.take_along_axis(self.targets, first, axis=1), self.weight, self.out_features)

    def to_dense(self) -> Float[Array, "receivers senders"]:
        """The matrix, laid out as `eqx.nn.Linear`'s."""
        eye = jnp.eye(self.in_features)
        return _visit_all(eye, self.targets, self._weights(eye), self.out_features).T

    @jax.named_scope("eqx_dynamics.SparseConnection")
    def __call__(self, x: Input) -> Float[Array, "..."]:
        """Spikes `(*any, in_features)`, graded ones too, to their weighted sums `(*any, out_features)`."""
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"`x` must end in the {self.in_features} senders; got shape {x.shape}.")
        values = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)
        merged, leading = merge_time(values)
        visit = _visit_all if in_parallel() else _visit_spikes
        out = visit(merged, self.targets, self._weights(values), self.out_features)
        return jnp.reshape(out, (*leading, self.out_features))

    def _weights(self, like: Array) -> Float[Array, "senders_or_1 degree_or_1"]:
        values = value_of(self.weight).astype(like.dtype)
        return values.reshape((1,) * (2 - values.ndim) + values.shape)


_BLOCK = 16
"""Spikes looked up at a time: few enough that a step with few spikes is cheap."""
_WORD = 32
_SPARE = 64
"""Places beside the receivers for slots without a synapse; were it one, each addition would wait for the one before."""
_MOST_AT_ONCE = 1 << 22


def _visit_all(x: Array, targets: Array, weight: Array, out_features: int) -> Array:
    """`(rows, senders)` to `(rows, receivers)` through every synapse; some slots at a time if there are many rows."""
    rows, (senders, degree) = x.shape[0], targets.shape
    blocks = max(1, min(degree, math.ceil(rows * senders * degree / _MOST_AT_ONCE)))
    size = math.ceil(degree / blocks)
    pad = ((0, 0), (0, size * blocks - degree))
    weights = jnp.pad(jnp.broadcast_to(weight, targets.shape), pad)
    padded = jnp.pad(targets, pad, constant_values=out_features)

    def add(out: Array, part: Any) -> tuple[Array, None]:
        return out.at[part[0]].add(x.T[:, None] * part[1][..., None], mode="drop"), None

    parts = [jnp.moveaxis(a.reshape(senders, blocks, size), 1, 0) for a in (padded, weights)]
    return jax.lax.scan(add, jnp.zeros((out_features, rows), x.dtype), parts)[0].T


def _events(x: Array, weight: Array, targets: Array, like: Array) -> Array:
    """The nonzero entries of each row of `x`, a block at a time; `like` has the shape of a row of the output."""

    def one(row: Array) -> Array:
        # Which neurons fired, a bit each, and how many up to the end of each word: a spike is found by counting bits.
        fired = jnp.pad(row != 0, (0, -row.size % _WORD)).reshape(-1, _WORD).astype(jnp.uint32)
        words = jnp.sum(fired << bits[None], axis=1, dtype=jnp.uint32)
        ends = jnp.cumsum(_count_bits(words))
        total = ends[-1]

        def body(carry: tuple[Array, Array]) -> tuple[Array, Array]:
            first, out = carry
            nth = first + jnp.arange(_BLOCK, dtype=jnp.int32)
            word = jnp.minimum(jnp.sum(ends[None] <= nth[:, None], axis=1, dtype=jnp.int32), ends.size - 1)
            rank = nth - jnp.where(word > 0, ends[word - 1], 0)
            up_to = _count_bits(words[word][:, None] & upper[None])
            sender = word * _WORD + jnp.sum(up_to <= rank[:, None], axis=1, dtype=jnp.int32)

            # One row after another: twice as fast on CPU as the rows of a block in one scatter.
            def add(spike: Array, out: Array) -> Array:
                j = sender[spike]
                values = row[j] * weight[jnp.minimum(j, weight.shape[0] - 1)]
                row_targets = targets[j].astype(jnp.uint32)
                reached = jnp.where(row_targets < like.size, row_targets, nowhere)
                return out.at[reached].add(jnp.broadcast_to(values, reached.shape), mode="promise_in_bounds")

            return first + _BLOCK, jax.lax.fori_loop(0, jnp.minimum(_BLOCK, total - first), add, out)

        start = (jnp.zeros((), jnp.int32), jnp.zeros(like.size + _SPARE, like.dtype))
        return jax.lax.while_loop(lambda carry: carry[0] < total, body, start)[1][: like.size]

    nowhere = like.size + jnp.arange(targets.shape[1], dtype=jnp.uint32) % _SPARE  # For slots without a synapse.
    bits = jnp.arange(_WORD, dtype=jnp.uint32)
    upper = (jnp.uint32(2) << bits) - jnp.uint32(1)  # The bits up to each; the last shift overflows to 0, so to all.
    return one(x[0])[None] if x.shape[0] == 1 else jax.lax.map(one, x)


def _count_bits(words: Array) -> Array:
    return jax.lax.population_count(words).astype(jnp.int32)


@ft.partial(jax.jit, static_argnames="out_features")  # Compiled, the visit that only derivatives need is dropped.
def _visit_spikes(x: Array, targets: Array, weight: Array, out_features: int) -> Array:
    """Derivatives are those through every synapse: neurons that did not fire have some too."""
    events = _events(*jax.lax.stop_gradient((x, weight)), targets, jnp.zeros((out_features,), x.dtype))
    return with_tangent(events, _visit_all(x, targets, weight, out_features))
