"""Frames to codes and back."""
