"""Prompt, parser and the one play loop that all stages share."""
