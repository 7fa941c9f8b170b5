"""The transformer, and what stands on it."""
