"""What is wrong with a file, in one line."""

from __future__ import annotations


class InteropError(ValueError):
    """A file that does not have the shape its format documents, or a placement that a format cannot say; one
    line that names the file's key and index, or the node and the layer."""
