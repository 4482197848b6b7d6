"""Gymnasium environments of the tasks. Importing this package registers them and loads no model library."""

from rl4vlm.envs.registration import register_all

register_all()
