"""Live intensity: services with the grid's present and forecast emissions."""
