"""Which records make the batch of a step, on every host."""
