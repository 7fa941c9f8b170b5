"""Training with labels: joint training and fine-tuning."""
