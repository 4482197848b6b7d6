"""What every other part builds on: shared types, random streams, files and progress bars."""
