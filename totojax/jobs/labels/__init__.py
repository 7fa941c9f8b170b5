"""Training with labels: joint training, fine-tuning, what probes share."""
