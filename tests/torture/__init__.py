"""Attempts to break the project: hostile inputs, damaged files, kills, full disks.

`make test` runs the short form of each check, `make torture` the long one: the same tests with larger budgets. A check
counts what it tries in a `trial`. In the long form each trial leaves a record, and docs/reliability.md is made of the
records.
"""
