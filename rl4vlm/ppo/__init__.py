"""PPO fine-tuning (paper, section 4.3 and algorithm 1), and the same for CNN+RL."""
