"""The algorithms beside `certified`: those of the papers, and the baselines."""
