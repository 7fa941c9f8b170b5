"""`run = "generate"`: videos that a pre-trained model goes on with."""
