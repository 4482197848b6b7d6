"""The parts of the workflow's config that Snakemake has merged before the Snakefile sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config


def config_layers(config: Mapping[str, Any], workflow: Any) -> list[Mapping[str, Any]]:
    """The files and the values of `--config` that `config` was merged from; a later one overrides those before it.

    Jobs that run in a Snakemake of their own find the same ones: Snakemake passes its files and values on to them.
    Returns `config` alone if it is something else than its parts merged, because the workflow that uses this one as a
    module has changed it or `--replace-workflow-config` is given, and if a part is a pipe, which is read only once.

    Args:
        config: the config that Snakemake has merged.
        workflow: Snakemake's `workflow`.
    """
    given = workflow.config_settings
    # Snakemake appends the files of `configfile:` to those of `--configfile`, although these override them.
    own_files = workflow.configfiles[len(given.configfiles) :]
    if not all(Path(file).is_file() for file in (*own_files, *given.configfiles)):
        return [config]
    own, over = [*map(load_configfile, own_files)], [*map(load_configfile, given.configfiles), dict(given.config)]
    return [*own, *over] if _merged(own, over) == config else [config]


def _merged(own: Sequence[Mapping[str, Any]], over: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What Snakemake makes of the files of `configfile:` (`own`) and of the layers that override them (`over`).

    It merges `over` into one mapping before it reads the own files. What one layer of `over` drops by null and a later
    one sets again then no longer shows the null, so what the own files set there comes back.
    """
    above: dict[str, Any] = {}
    for layer in over:
        update_config(above, layer)
    merged = deepcopy(above)
    for layer in own:
        update_config(merged, layer)
        update_config(merged, above)
    return merged
