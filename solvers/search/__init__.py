"""The search of `certified` and its bound, for fleets of any size."""
