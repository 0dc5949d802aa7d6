"""The spiking step of `spiking.py` in other libraries; each needs its own package."""

import time
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from _spiking_problem import BETA, SLOPE, Problem, Variant, compiled, cross_entropy


def _feed_forward_only(recurrent: bool) -> None:
    if recurrent:
        raise NotImplementedError("no recurrent variant")


def _saved_mb(run: Callable) -> float:
    """What torch's autograd keeps for the backward pass, MB: each storage once."""
    import torch

    sizes: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return round(sum(sizes.values()) / 2**20, 1)


def spyx(problem: Problem, recurrent: bool) -> Variant:
    import spyx.nn as snn
    from flax import nnx

    _feed_forward_only(recurrent)
    shape = problem.shape

    def dense(weight: np.ndarray) -> Any:
        layer = nnx.Linear(weight.shape[1], weight.shape[0], use_bias=False, rngs=nnx.Rngs(0))
        layer.kernel = nnx.Param(jnp.asarray(weight.T))
        return layer

    def lif() -> Any:
        return snn.LIF((shape.hidden,), beta=BETA, threshold=1.0, rngs=nnx.Rngs(0))

    readout = snn.LI((shape.outputs,), beta=BETA, rngs=nnx.Rngs(0))
    first, middle, last = (dense(weight) for weight in problem.weights)
    graph, state = nnx.split(snn.Sequential(first, lif(), middle, lif(), last, readout))

    def loss(state: Any, x: Any) -> Any:
        return cross_entropy(snn.run(nnx.merge(graph, state), x)[0].mean(0), problem.y)

    return compiled(loss, state, jnp.asarray(problem.x))


def jaxpike(problem: Problem, recurrent: bool, **how: Any) -> Variant:
    import equinox as eqx
    import jax
    import jaxpike as jp

    _feed_forward_only(recurrent)
    tau, gain = -1 / np.log(BETA), 1 / (1 - BETA)

    def dense(weight: np.ndarray) -> Any:
        layer = jp.Dense(weight.shape[1], weight.shape[0], key=jax.random.PRNGKey(0), use_bias=False)
        return eqx.tree_at(lambda m: m.weight, layer, jnp.asarray(weight * gain))

    first, middle, last = (dense(weight) for weight in problem.weights)
    net = jp.Sequential(first, jp.LIF(tau=tau), middle, jp.LIF(tau=tau), last, jp.LeakyIntegrator(tau=tau))
    arrays, static = eqx.partition(net, eqx.is_inexact_array)

    def loss(arrays: Any, x: Any) -> Any:
        return cross_entropy(jp.unroll(eqx.combine(arrays, static), x, **how)[0].mean(0), problem.y)

    return compiled(loss, arrays, jnp.asarray(problem.x))


def brainstate(problem: Problem, recurrent: bool) -> Variant:
    import brainpy.state as bp
    import brainstate as bs
    import braintools
    import brainunit as u
    import jax

    shape, (first, middle, last) = problem.shape, problem.weights
    tau = -1 / np.log(BETA) * u.ms
    neuron = {
        "tau": tau,
        "V_th": 1.0 * u.mV,
        "R": 1 / (1 - BETA) * u.ohm,
        "spk_fun": braintools.surrogate.InvSquareGrad(SLOPE),
    }

    def dense(weight: np.ndarray) -> Any:
        layer = bs.nn.Linear(weight.shape[1], weight.shape[0], b_init=None)
        layer.weight.value = {"weight": jnp.asarray(weight.T)}
        return layer

    class FeedForward(bs.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle, self.last = dense(first), dense(middle), dense(last)
            self.lif_1, self.lif_2 = bp.LIF(shape.hidden, **neuron), bp.LIF(shape.hidden, **neuron)
            self.out = bp.Expon(shape.outputs, tau=tau, g_initializer=braintools.init.Constant(0.0))

        def update(self, x: Any) -> Any:
            spikes = self.lif_1(self.first(x) * u.mA)
            return self.out(self.last(self.lif_2(self.middle(spikes) * u.mA)))

    class Feedback(bs.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle, self.last = dense(first), dense(middle), dense(last)
            self.alif = bp.ALIF(shape.hidden, tau_a=200 * u.ms, beta=0.1 * u.mV, **neuron)
            self.out = bp.Expon(shape.outputs, tau=tau, g_initializer=braintools.init.Constant(0.0))

        def update(self, x: Any) -> Any:
            back = self.middle(self.alif.get_spike())
            return self.out(self.last(self.alif((self.first(x) + back) * u.mA)))

    net = Feedback() if recurrent else FeedForward()
    weights = net.states(bs.ParamState)
    x = jnp.asarray(problem.x)

    def loss(x: Any) -> Any:
        bs.nn.init_all_states(net, batch_size=shape.batch)
        with bs.environ.context(dt=1.0 * u.ms):
            out = bs.transform.for_loop(net.update, x)
        return cross_entropy(out.mean(0), problem.y)

    step = bs.transform.jit(lambda x: bs.transform.grad(loss, weights, return_value=True)(x))
    start = time.perf_counter()
    memory = step.compile(x).memory_analysis().temp_size_in_bytes / 2**20
    facts = {"temp_mb": round(memory, 1), "compile_s": round(time.perf_counter() - start, 2)}
    return Variant(lambda: jax.block_until_ready(step(x)), facts)


def snntorch(problem: Problem, recurrent: bool) -> Variant:
    import snntorch as snn
    import torch

    _feed_forward_only(recurrent)
    torch.set_num_threads(2)
    x, y = torch.tensor(problem.x), torch.tensor(problem.y)
    weights = [torch.nn.Parameter(torch.tensor(weight)) for weight in problem.weights]
    spike_grad = snn.surrogate.fast_sigmoid(SLOPE)
    first, second = (snn.Leaky(beta=BETA, spike_grad=spike_grad) for _ in range(2))
    readout = snn.Leaky(beta=BETA, reset_mechanism="none")

    def run() -> float:
        for weight in weights:
            weight.grad = None
        sizes = [weight.shape[0] for weight in weights]
        a, b, u = (torch.zeros(problem.shape.batch, size) for size in sizes)
        outs = []
        for xt in x.unbind(0):
            spikes, a = first(torch.nn.functional.linear(xt, weights[0]), a)
            spikes, b = second(torch.nn.functional.linear(spikes, weights[1]), b)
            _, u = readout(torch.nn.functional.linear(spikes, weights[2]), u)
            outs.append(u)
        loss = torch.nn.functional.cross_entropy(torch.stack(outs).mean(0), y)
        loss.backward()
        return loss.item()

    return Variant(run, {"loss": round(run(), 5), "saved_mb": _saved_mb(run)})


def norse(problem: Problem, recurrent: bool) -> Variant:
    import norse.torch as nt
    import torch
    from norse.torch.functional.reset import reset_subtract

    _feed_forward_only(recurrent)
    torch.set_num_threads(2)
    x, y = torch.tensor(problem.x), torch.tensor(problem.y)
    weights = [torch.nn.Parameter(torch.tensor(weight)) for weight in problem.weights]
    p = nt.LIFBoxParameters(tau_mem_inv=torch.as_tensor(100.0), reset_method=reset_subtract)
    first, second, readout = nt.LIFBoxCell(p), nt.LIFBoxCell(p), nt.LIBoxCell()

    def run() -> float:
        for weight in weights:
            weight.grad = None
        a = b = u = None
        outs = []
        for xt in x.unbind(0):
            spikes, a = first(10 * torch.nn.functional.linear(xt, weights[0]), a)
            spikes, b = second(10 * torch.nn.functional.linear(spikes, weights[1]), b)
            out, u = readout(torch.nn.functional.linear(spikes, weights[2]), u)
            outs.append(out)
        loss = torch.nn.functional.cross_entropy(torch.stack(outs).mean(0), y)
        loss.backward()
        return loss.item()

    return Variant(run, {"loss": round(run(), 5), "saved_mb": _saved_mb(run)})


def spikingjelly(problem: Problem, recurrent: bool) -> Variant:
    """Layer by layer through all steps (its multi-step mode), which is its faster one."""
    import torch
    from spikingjelly.activation_based import functional, neuron

    _feed_forward_only(recurrent)
    torch.set_num_threads(2)
    x, y = torch.tensor(problem.x), torch.tensor(problem.y)
    weights = [torch.nn.Parameter(torch.tensor(weight)) for weight in problem.weights]
    tau = 1 / (1 - BETA)

    class FastSigmoid(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return (x >= 0).to(x)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return grads[0] / (1 + SLOPE * ctx.saved_tensors[0].abs()) ** 2

    def lif() -> Any:
        options: dict[str, Any] = {"decay_input": False, "v_reset": None, "detach_reset": True, "step_mode": "m"}
        return neuron.LIFNode(tau, surrogate_function=FastSigmoid.apply, **options)

    first, second, readout = lif(), lif(), neuron.NonSpikingLIFNode(tau, decode="mean-mem")

    def run() -> float:
        for weight in weights:
            weight.grad = None
        for layer in (first, second, readout):
            functional.reset_net(layer)
        spikes = second(torch.nn.functional.linear(first(torch.nn.functional.linear(x, weights[0])), weights[1]))
        logits = readout(tau * torch.nn.functional.linear(spikes, weights[2]))
        loss = torch.nn.functional.cross_entropy(logits, y)
        loss.backward()
        return loss.item()

    return Variant(run, {"loss": round(run(), 5), "saved_mb": _saved_mb(run)})


PEERS: dict[str, Callable[[Problem, bool], Variant]] = {
    "spyx": spyx,
    "brainstate": brainstate,
    "jaxpike, scan_unroll=1": lambda problem, recurrent: jaxpike(problem, recurrent, scan_unroll=1),
    "jaxpike": jaxpike,
    "snntorch": snntorch,
    "norse": norse,
    "spikingjelly": spikingjelly,
}
