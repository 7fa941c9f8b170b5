"""Probes of every layer of a frozen backbone."""
