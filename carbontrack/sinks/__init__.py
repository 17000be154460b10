"""Where records go: one kind of sink per file; `choose` picks one by the name of the output."""
