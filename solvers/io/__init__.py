"""Instance, placement and recording files."""
