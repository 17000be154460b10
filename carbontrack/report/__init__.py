"""From files of records to sums, tables, documents and a page."""
