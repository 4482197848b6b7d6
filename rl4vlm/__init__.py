"""RL4VLM: fine-tuning vision-language models as decision-making agents with PPO, as a reproducible pipeline."""

__version__ = "0.1.0"
