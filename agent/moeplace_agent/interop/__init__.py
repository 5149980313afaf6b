"""The files of systems people already run: what they recorded, and the placements they read.

A format is one file here and one line in `registry`. Readers give `Observation`s, writers take a
`FleetPlacement`; both say with a `LayerIndex` how the file numbers its layers.
"""
