"""Program augmentation: derivatives by chosen leaves, batch axes, Taylor mode, tables, compiling ahead of time."""

from ._axes import (
    ensemble as ensemble,
    init_states as init_states,
    state_axes as state_axes,
    state_shardings as state_shardings,
)
from ._compile import (
    Compiled as Compiled,
    compile_ahead as compile_ahead,
    enable_compilation_cache as enable_compilation_cache,
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
from ._export import (
    Exported as Exported,
    export as export,
    load_exported as load_exported,
    symbolic_sizes as symbolic_sizes,
)
from ._grid import GridInterpolator as GridInterpolator
from ._select import Filter as Filter, Not as Not, Tag as Tag, select as select
from ._table import Table as Table, tabulate as tabulate
from ._taylor import time_derivatives as time_derivatives
