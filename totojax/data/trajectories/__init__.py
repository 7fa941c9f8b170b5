"""Recorded episodes of robots, as they lie on disk."""
