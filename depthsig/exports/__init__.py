"""A saved signature told elsewhere: a section of a model card, a run in TensorBoard or Weights & Biases.

What leaves are findings, scores, profiles and the options of the measurement; never prompts, tokens or weights.
"""
