"""Compiled kernels of the planner; private to `migrations`."""
