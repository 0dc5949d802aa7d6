"""Real graphs shipped with the package, and readers for common on-disk formats."""

from ._mutag import mutag as mutag
from ._tu import read_tu_dataset as read_tu_dataset
