"""Optimisers and their schedules, and µP."""
