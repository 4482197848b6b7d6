"""A task in a package of its own: the example of docs/add-a-task.md, which a test takes through every stage."""
