"""`run = "playground"`: a page on which a model goes on with clips."""
