"""Signatures side by side: distances on relative depth, late reliance, recurrence, and three claims.

Everything is computed from saved tables; no model is needed, and torch is not imported.
"""
