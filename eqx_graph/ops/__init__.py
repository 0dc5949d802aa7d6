"""The engine: segment reductions, the sparse product, fused attention."""

from ._attention import attention as attention, edge_softmax as edge_softmax
from ._matmul import edge_dot as edge_dot, matmul as matmul
from ._segment import (
    segment_count as segment_count,
    segment_max as segment_max,
    segment_mean as segment_mean,
    segment_min as segment_min,
    segment_softmax as segment_softmax,
    segment_sum as segment_sum,
)
