"""Program augmentation: derivatives by chosen leaves, batch axes, Taylor mode, tables, compiling ahead of time."""

from ._axes import (
    ensemble as ensemble,
    init_states as init_states,
    state_axes as state_axes,
    state_shardings as state_shardings,
)
from ._derivatives import (
    grad as grad,
    hessian as hessian,
    hvp as hvp,
    jacfwd as jacfwd,
    jacobian as jacobian,
    jacrev as jacrev,
    value_and_grad as value_and_grad,
    vector_grad as vector_grad,
)
from ._select import Filter as Filter, Not as Not, Tag as Tag, select as select
from ._taylor import time_derivatives as time_derivatives
