"""`run = "track"`: labels of a first frame go on by the likeness of features."""
