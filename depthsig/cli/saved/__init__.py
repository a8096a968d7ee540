"""Commands on results that are saved already: they open no checkpoint."""
