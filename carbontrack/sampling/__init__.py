"""From meters to running sums: joules of the machine, joules of ours, grams. One thread."""
