"""The store of a team's records, with projects and tokens: SQLite, or PostgreSQL for many writers.

`factory.open_store` opens one by its address, `rows.stored_row` checks what a client has sent, and
`base.Store` is what both engines can do. A project's rows are seen and written under its name only;
a record that arrives twice is stored once.
"""
