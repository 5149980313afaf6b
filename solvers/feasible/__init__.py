"""Memory, devices, pins and replicas: what a placement has to respect."""
