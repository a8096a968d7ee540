"""What a replication runs beside analyses: blocks run again, examples in context, steps left out."""
