"""`run = "surprise"`: whether impossible videos surprise a model more than possible ones."""
