"""Layers: messages, aggregations, and what surrounds them."""

from . import aggr as aggr
from ._message_passing import MessagePassing as MessagePassing
