"""An archive of records: one Parquet file a month, each record once, and back to CSV."""
