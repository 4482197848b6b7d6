"""Demonstrations, and supervised fine-tuning on them (paper, section 4.1)."""
