"""Engines in processes of their own: many games at once on all cores, memory that stays bounded, crashes survived.

`serving` is what such a process does, `process` starts and ends it, `protocol` is what goes in and out. `pool` gives
games to processes and replaces those that die; `solvers` gives them plans to find.
"""
