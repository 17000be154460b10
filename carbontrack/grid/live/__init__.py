"""Live intensity: services that say what the grid emits now, and what it will."""
