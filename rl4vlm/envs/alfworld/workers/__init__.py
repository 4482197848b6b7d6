"""Engines in worker processes: games run in parallel on all cores, in bounded memory, and survive a worker's death.

`fork_server` is the process that workers are forked from, `serving` is what runs inside of them, `worker` starts and
stops them and talks to them in the words of `protocol`. `engine_pool` runs games in workers and replaces workers that
die, `solvers` finds plans in them.
"""
