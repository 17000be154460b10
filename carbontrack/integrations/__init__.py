"""Integrations with frameworks and servers, a module each; none is imported unless used."""
