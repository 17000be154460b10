"""Integrations with frameworks and servers, one module each; none is imported unless used."""
