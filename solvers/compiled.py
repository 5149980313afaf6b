"""How kernels are compiled, for the packages that have kernels of their own."""

from solvers.kernels.compiled import brief, compiled

__all__ = ["brief", "compiled"]
