"""The relay of one host: it sends the records that exited processes left, and those sent to it."""
