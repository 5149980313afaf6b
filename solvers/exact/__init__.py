"""The placement problem as a mixed integer linear programme."""
