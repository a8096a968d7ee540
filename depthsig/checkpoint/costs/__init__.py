"""What a model costs: parameters, FLOPs and KV memory from its modules and its plan, and what its files say of training."""
