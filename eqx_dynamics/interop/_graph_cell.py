"""Cells and layers wired by a list of edges, with feedback wherever it closes a loop."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .._apply import apply_stateless
from .._cell import AbstractCell


INPUT, OUTPUT = "input", "output"


class GraphState(eqx.Module):
    """State of `GraphCell`."""

    nodes: dict[str, Any]  # of every cell, by name
    fed_back: dict[str, Float[Array, "..."]]  # what cells whose output closes a loop put out in the step before


class GraphCell(AbstractCell[GraphState]):
    """Named cells and stateless layers, each fed the sum of what its edges bring; one step goes through all of them.

    Edges are (from, to), with the names "input" and "output" for the ends. Where edges close a loop, the cell in the
    loop is heard one step later, as in `Recurrent`. For chains use `Sequential`, which is faster.
    """

    nodes: dict[str, AbstractCell | Callable]
    edges: tuple[tuple[str, str], ...] = eqx.field(static=True)
    order: tuple[str, ...] = eqx.field(static=True)
    delayed: frozenset[tuple[str, str]] = eqx.field(static=True)
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = eqx.field(static=True)

    def __init__(
        self,
        nodes: Mapping[str, AbstractCell | Callable],
        edges: Iterable[tuple[str, str]],
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ):
        """**Arguments:**

        - `nodes`: cells, and stateless layers as in `Sequential`, by name.
        - `edges`: pairs (from, to) of names, "input" and "output" included.
        - `shapes`: the output shape, without batch axes, of cells in loops that have no `size`.

        **Raises:** `ValueError` for an edge to or from an unknown name, a node that nothing feeds, a loop without a
        cell, or a missing shape; when called, for edges into one node that bring different shapes.
        """
        self.nodes, self.edges = dict(nodes), tuple((a, b) for a, b in edges)
        known = {*self.nodes, INPUT, OUTPUT}
        unknown = sorted({name for edge in self.edges for name in edge} - known)
        unfed = sorted(({*self.nodes, OUTPUT}) - {b for _, b in self.edges})
        if unknown or unfed:
            raise ValueError(
                f"`edges` must join nodes, {INPUT!r} and {OUTPUT!r}, and feed each; unknown: {unknown}, not fed: "
                f"{unfed}."
            )
        cells = {name for name, node in self.nodes.items() if isinstance(node, AbstractCell)}
        self.delayed = frozenset(_loop_closing(self.edges, cells))
        self.order = tuple(n for n in _ordered([e for e in self.edges if e not in self.delayed]) if n in self.nodes)
        sizes = {**{n: getattr(self.nodes[n], "size", None) for n, _ in self.delayed}, **(shapes or {})}
        missing = sorted(n for n, _ in self.delayed if sizes.get(n) is None)
        if missing:
            raise ValueError(
                f"`shapes` must hold the output shape of {missing}, which are in loops and have no `size`."
            )
        self.shapes = tuple(sorted((n, tuple(sizes[n] or ())) for n in {n for n, _ in self.delayed}))

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> GraphState:
        """Every cell's own state, and silence in the loops, with `shape` as leading (batch) axes."""
        cells = {name: node for name, node in self.nodes.items() if isinstance(node, AbstractCell)}
        keys = [None] * len(cells) if key is None else list(jr.split(key, len(cells)))
        states = {n: cell.init_state(shape, key=k) for (n, cell), k in zip(cells.items(), keys, strict=True)}
        return GraphState(states, {name: jnp.zeros((*shape, *size)) for name, size in self.shapes})

    @jax.named_scope("eqx_dynamics.GraphCell")
    def __call__(
        self, x: Array, state: GraphState, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "..."], GraphState]:
        """One step: input `(*batch, *shape)` to the sum of what reaches the output."""
        values: dict[str, Array] = {INPUT: x}
        states = dict(state.nodes)

        def arriving(target: str) -> Array:
            sources = [(a, (a, b) in self.delayed) for a, b in self.edges if b == target]
            first, *rest = [state.fed_back[a] if late else values[a] for a, late in sources]
            if any(part.shape != first.shape for part in rest):
                shapes = {a: part.shape for (a, _), part in zip(sources, [first, *rest], strict=True)}
                raise ValueError(f"`edges` into {target!r} must bring one shape to be added up; got {shapes}.")
            return sum((part.astype(first.dtype) for part in rest), start=first)

        keys = [None] * len(self.order) if key is None else list(jr.split(key, len(self.order)))
        for name, k in zip(self.order, keys, strict=True):
            node = self.nodes[name]
            if isinstance(node, AbstractCell):
                values[name], states[name] = node(arriving(name), states[name], key=k)
            else:
                values[name] = apply_stateless(node, arriving(name), k)
        heard = {name: values[name].astype(old.dtype) for name, old in state.fed_back.items()}
        return arriving(OUTPUT), GraphState(states, heard)


def _loop_closing(edges: Sequence[tuple[str, str]], cells: set[str]) -> set[tuple[str, str]]:
    """Edges out of cells to hear one step late, so that no loop is left: the last cell of each before it closes."""
    delayed: set[tuple[str, str]] = set()
    pending = _back_edges(edges)
    passed: set[tuple[str, str]] = set()
    while pending:
        source, target = pending.pop()
        if source in cells:
            delayed.add((source, target))
            continue
        if (source, target) in passed or source == INPUT:
            raise ValueError(f"`edges` form a loop without a cell, through {source!r}: put a cell or a Delay in it.")
        passed.add((source, target))
        pending += [edge for edge in edges if edge[1] == source and _reaches(edges, target, edge[0])]
    return delayed


def _back_edges(edges: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Edges that lead back to a node on the way from the input, in a search depth first."""
    found: list[tuple[str, str]] = []
    done: set[str] = set()

    def visit(node: str, way: tuple[str, ...]) -> None:
        for a, b in edges:
            if a == node and b in (*way, node):
                found.append((a, b))
            elif a == node and b not in done:
                visit(b, (*way, node))
        done.add(node)

    visit(INPUT, ())
    return found


def _reaches(edges: Sequence[tuple[str, str]], start: str, goal: str) -> bool:
    seen, front = {start}, [start]
    while front:
        node = front.pop()
        if node == goal:
            return True
        for a, b in edges:
            if a == node and b not in seen:
                seen.add(b)
                front.append(b)
    return False


def _ordered(edges: Sequence[tuple[str, str]]) -> list[str]:
    """Names so that every edge leads onwards."""
    names = list(dict.fromkeys(name for edge in edges for name in edge))
    order: list[str] = []
    while len(order) < len(names):
        ready = [n for n in names if n not in order and all(a in order for a, b in edges if b == n)]
        if not ready:
            raise ValueError(f"`edges` form a loop without a cell among {sorted(set(names) - set(order))}.")
        order += ready
    return order
