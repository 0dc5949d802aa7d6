"""Pooling: from nodes to graphs."""

from ._global import (
    global_add_pool as global_add_pool,
    global_max_pool as global_max_pool,
    global_mean_pool as global_mean_pool,
    global_min_pool as global_min_pool,
)
