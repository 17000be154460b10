"""Exporters: sums of finished work and what is live, by the conventions of monitoring systems."""
