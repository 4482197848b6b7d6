"""Packs results into one file that a reader can verify by rebuilding every table and figure from the packed metrics."""
