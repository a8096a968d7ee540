"""The pages: each a result in words, charts that answer, and tables, in one file that needs no network."""
