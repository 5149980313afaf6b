"""Lower bounds: the Lagrangian dual of the radius formulation, and the method that maximises it."""
