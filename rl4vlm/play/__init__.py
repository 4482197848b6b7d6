"""Plays one episode on a terminal, by a policy or by a person."""
