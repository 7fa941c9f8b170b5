"""Tokenizers that others trained, read without executing anything."""
