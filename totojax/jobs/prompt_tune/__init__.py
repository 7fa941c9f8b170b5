"""`run = "prompt_tune"`: a pre-trained model learns to answer prompts of pictures (A.8)."""
