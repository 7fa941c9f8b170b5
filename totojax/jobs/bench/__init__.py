"""How fast we are, as ratios to other libraries."""
