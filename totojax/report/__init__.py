"""Reports: they read run directories and nothing else."""
