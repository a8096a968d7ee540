"""Claims of papers put to the test on networks given by their roles: criteria as data, evidence, verdicts.

Everything is computed from tables; no model is needed, and torch is not imported.
"""
