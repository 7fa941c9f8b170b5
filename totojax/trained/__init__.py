"""Finished runs, opened: features, the Python API, generation."""
