"""What users call; the only room that names concrete meters, grids and sinks."""
