"""Several devices and several processes."""

from ._mesh import DataParallel as DataParallel, data_mesh as data_mesh
from ._processes import join_processes as join_processes
from ._stacked import stacked as stacked
