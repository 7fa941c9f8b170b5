"""Many runs, and their optimum."""
