"""Other trackers' public names on carbontrack; none of them is imported unless it is used."""
