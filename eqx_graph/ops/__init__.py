"""The engine: segment reductions, the sparse product, fused attention, blocks of edges."""

from ._attention import attention as attention, edge_softmax as edge_softmax
from ._edge_map import edge_map as edge_map
from ._matmul import edge_dot as edge_dot, matmul as matmul
from ._messages import (
    AbstractMessages as AbstractMessages,
    BlockMessages as BlockMessages,
    RowMessages as RowMessages,
)
from ._segment import (
    segment_count as segment_count,
    segment_max as segment_max,
    segment_mean as segment_mean,
    segment_min as segment_min,
    segment_mul as segment_mul,
    segment_std as segment_std,
    segment_sum as segment_sum,
    segment_var as segment_var,
)
from ._segment_order import (
    segment_argmax as segment_argmax,
    segment_median as segment_median,
    segment_quantile as segment_quantile,
)
from ._segment_softmax import (
    segment_log_softmax as segment_log_softmax,
    segment_logsumexp as segment_logsumexp,
    segment_softmax as segment_softmax,
)
