"""Energy labels: measured energy per unit, graded against what was published for a task."""
