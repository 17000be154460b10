"""The receiver of a team's records over HTTP: tokens, quotas, one writer, and totals by project."""
