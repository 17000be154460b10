"""The process and its machine: clock, forks, private files, host, log, signals, version."""
