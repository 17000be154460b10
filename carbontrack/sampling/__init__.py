"""From meter readings to running sums of energy and emissions, on one thread."""
