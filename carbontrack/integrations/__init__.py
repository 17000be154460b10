"""Servers and frameworks, one to a file; none of them is imported unless it is used."""
