"""Held-out evaluation of a policy."""
