"""One episode at a terminal, played by a policy or by a person."""
