"""From records on disk to tables, plots and pages."""
