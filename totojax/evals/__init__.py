"""What is measured, as functions over plain arrays."""
