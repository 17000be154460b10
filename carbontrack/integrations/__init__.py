"""Integrations with servers and frameworks, one to a file; each is imported only when used."""
