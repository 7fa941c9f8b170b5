"""What is trained: batch in, loss terms out."""
