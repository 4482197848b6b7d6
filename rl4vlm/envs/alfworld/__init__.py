"""ALFWorld: games, the text engine that runs them, and what a player is shown. Nothing here imports torch."""
