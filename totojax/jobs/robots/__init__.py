"""Policies on frozen features: cloned, corrected by an expert, served."""
