"""The relay of one host: it sends what ended processes have left, and what they hand to it."""
