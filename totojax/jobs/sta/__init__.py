"""`run = "sta"` and `run = "sta_frozen"`: short-term anticipation of Ego4D."""
