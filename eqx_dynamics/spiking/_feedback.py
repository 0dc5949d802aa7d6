"""The way back from the readout of a network to its neurons."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class AbstractFeedback(eqx.Module):
    """How the error of the readout reaches the neurons: the learning signal is the error times a matrix."""

    @abc.abstractmethod
    def matrix_for(self, readout: Float[Array, "outputs neurons"]) -> Float[Array, "outputs neurons"]:
        """The matrix, given the weights of the readout."""

    @abc.abstractmethod
    def gradient(self, readout_gradient: Float[Array, "outputs neurons"]) -> "AbstractFeedback":
        """What is trained here, given the gradient of the readout's weights."""


class SymmetricFeedback(AbstractFeedback):
    """The readout's own weights: exact, for what does not pass from neuron to neuron."""

    def matrix_for(self, readout: Float[Array, "outputs neurons"]) -> Float[Array, "outputs neurons"]:
        return readout

    def gradient(self, readout_gradient: Float[Array, "outputs neurons"]) -> "SymmetricFeedback":
        return self


class RandomFeedback(AbstractFeedback):
    """A fixed matrix, drawn once (broadcast alignment)."""

    matrix: Float[Array, "outputs neurons"]

    def matrix_for(self, readout: Float[Array, "outputs neurons"]) -> Float[Array, "outputs neurons"]:
        return _fitting(self.matrix, readout)

    def gradient(self, readout_gradient: Float[Array, "outputs neurons"]) -> "RandomFeedback":
        return RandomFeedback(jnp.zeros_like(self.matrix))


class AdaptiveFeedback(AbstractFeedback):
    """A matrix of its own that is changed as the readout is, so that with weight decay on both they come to agree."""

    matrix: Float[Array, "outputs neurons"]

    def matrix_for(self, readout: Float[Array, "outputs neurons"]) -> Float[Array, "outputs neurons"]:
        return _fitting(self.matrix, readout)

    def gradient(self, readout_gradient: Float[Array, "outputs neurons"]) -> "AdaptiveFeedback":
        return AdaptiveFeedback(readout_gradient)


def _fitting(matrix: Array, readout: Array) -> Array:
    if matrix.shape != readout.shape:
        raise ValueError(
            f"`matrix` of the feedback must have the shape (outputs, neurons) of the readout, {readout.shape}; got "
            f"{matrix.shape}."
        )
    return matrix
