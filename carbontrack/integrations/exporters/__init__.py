"""Exporters: sums of finished work and live values, by the conventions of monitoring systems."""
