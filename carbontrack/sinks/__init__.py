"""Destinations of records: one kind of sink per file.

`factory` picks one by the name of the output.
"""
