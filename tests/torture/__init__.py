"""Attempts to break the project: hostile inputs, damaged files, kills, full disks.

`make test` and `make test-system` run the short form of the checks, `make torture` the long one: the same tests with
larger budgets. A check counts what it tries in a `trial`. In the long form each trial leaves a record, and
docs/reliability.md is made of the records.
"""
