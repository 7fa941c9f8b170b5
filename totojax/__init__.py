"""totojax: autoregressive pre-training from videos, in JAX."""
