"""Meters: sources of energy data, each brought to a count of joules."""
