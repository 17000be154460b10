"""What can be set, where it is set, and what the environment says."""
