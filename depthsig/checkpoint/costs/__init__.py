"""What a model costs: parameters, FLOPs and KV memory, counted, and what its files say of training."""
