"""Where records go: one kind of sink per file, chosen by the name of the output (`factory`)."""
