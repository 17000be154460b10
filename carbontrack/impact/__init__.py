"""Estimates before a run, embodied emissions of hardware, and everyday equivalents."""
