"""The one file that uses `equinox.internal`: private there, so that a rename costs one edit here."""

from equinox.internal import unvmap_all as unvmap_all, while_loop as while_loop
