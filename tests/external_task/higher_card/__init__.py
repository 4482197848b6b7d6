"""A task in a package of its own: what docs/add-a-task.md walks through, and what a test takes through every stage."""
