"""From files of any kind to the batch of a step."""
