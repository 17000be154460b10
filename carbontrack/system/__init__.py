"""The process and its machine as Python sees them: clock, forks, files, host, log, signals."""
