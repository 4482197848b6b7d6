"""Sample episodes of every evaluation, step by step, in one HTML file."""
