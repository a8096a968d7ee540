"""What an entry is: its record, the kinds of runs that feed it, what functions ask of them, and files of one's own."""
