"""Where a model's layers, parts, final norm and head are: candidates, decided by measuring."""
