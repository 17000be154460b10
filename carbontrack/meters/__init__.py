"""Instruments that count joules."""
