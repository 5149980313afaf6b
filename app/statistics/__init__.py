"""What the solvers are asked: the fleet in rows and columns, its traffic, and the problem made of both."""
