"""Settings, the sources they are read from, and the environment of the process."""
