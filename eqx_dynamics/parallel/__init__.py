"""Several devices and several processes."""

from ._mesh import DataParallel as DataParallel, data_mesh as data_mesh
from ._stacked import stacked as stacked
