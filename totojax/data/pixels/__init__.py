"""Frames: decoded, rendered, cropped, augmented."""
