"""One HTML page that shows sample episodes of every evaluation, step by step."""
