"""In and out of other libraries: weights trained in PyTorch."""

from ._torch import load_torch_state_dict as load_torch_state_dict
