"""The games: rules as pure functions, the words of actions, prompt texts and solvers."""
