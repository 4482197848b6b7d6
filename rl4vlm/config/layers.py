"""The parts of the workflow's config that Snakemake has merged before the Snakefile sees it."""

from __future__ import annotations

from collections.abc import Mapping
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
    files = [*workflow.configfiles[len(given.configfiles) :], *given.configfiles]
    if not all(map(Path.is_file, map(Path, files))):
        return [config]
    layers = [*map(load_configfile, files), dict(given.config)]
    merged: dict[str, Any] = {}
    for layer in layers:
        update_config(merged, layer)
    return layers if merged == config else [config]
