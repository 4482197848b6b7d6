"""Export of trained checkpoints for other programs, with a model card."""
