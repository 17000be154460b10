"""From running sums to records: spans, decorated calls, and the session they share."""
