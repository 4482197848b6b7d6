"""Low-rank adapters (LoRA, Hu et al. 2021) on a backbone, by way of PEFT: the paper's PPO has rank 128, alpha 256.

An adapted backbone keeps its class, so that everything else treats it as any other. Its checkpoint holds the adapter in
PEFT's own format; the base model is only named, and is looked up there when the checkpoint is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from rl4vlm.config.stages.backbone import ALL_LINEAR, LoraSettings

ADAPTER_FILE = "adapter_config.json"
PROJECTOR = "projector"


def is_adapter(source: str | Path) -> bool:
    """Whether `source` is a folder that holds an adapter."""
    return (Path(source) / ADAPTER_FILE).is_file()


def base_of(adapter: str | Path) -> str:
    """Name or folder of the model that an adapter was trained on, as its checkpoint records it.

    A folder is recorded as it was named, relative to where the training ran: from elsewhere it is looked for beside
    what the adapter itself lies in, such as the project's folder or a copy of it.
    """
    recorded = str(PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path)
    if Path(recorded).is_dir():
        return recorded
    beside = (above / recorded for above in Path(adapter).resolve().parents)
    return str(next((folder for folder in beside if folder.is_dir()), recorded))


def ensure_adapter(model: PreTrainedModel, settings: LoraSettings) -> None:
    """Attach new adapters, or see that those already there, such as SFT's, are what `settings` asks for.

    From then on only the adapters are trainable; their weights are float32 whatever the backbone's precision, since
    steps of 1e-5 vanish in bfloat16.

    Raises:
        ValueError: nothing matches `targets`, or adapters of another shape are there.
    """
    names = target_layers(model, settings.targets)
    if _adapted(model):
        _check_same(model, settings, names)
        return
    matrices = target_matrices(model, settings.targets)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a fraction works as well
        lora_dropout=0.0,
        target_modules=names,
        target_parameters=matrices or None,
    )
    model.add_adapter(config)
    in_float32(model)


def load_adapter(model: PreTrainedModel, folder: Path) -> dict[str, Any]:
    """Put the adapter in `folder` on its base model, ready to be trained further; which weights were not there, as
    `output_loading_info` says it."""
    renamed = getattr(model, "_weight_conversions", None)
    found = model.load_adapter(str(folder), is_trainable=True)
    # Loading leaves the adapter's naming of weights there, under which the merged model would be saved.
    model._weight_conversions = renamed
    in_float32(model)
    return dict(found.to_dict())


def name_in_order(model: PreTrainedModel) -> None:
    """Sort the adapted layers' names, which PEFT keeps as a set: else no two processes save the same bytes."""
    for config in getattr(model, "peft_config", {}).values():
        if isinstance(config.target_modules, set):
            config.target_modules = sorted(config.target_modules)


def in_float32(model: PreTrainedModel) -> None:
    """Adapter weights to float32; a GPU rounds the factors of their products to TF32 where the backbone's are coarser.

    Otherwise the adapters, a fifteenth of the arithmetic, would take about as long as all the rest: GPUs multiply
    float32 at about a twelfth of their bfloat16 rate. TF32 keeps three bits more than the bfloat16 that is added.
    """
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    if model.dtype in (torch.bfloat16, torch.float16) and torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = True


def merge(model: PreTrainedModel) -> PreTrainedModel:
    """The same policy without adapters: their products added to the weights, in place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            above, _, last = name.rpartition(".")
            setattr(model.get_submodule(above), last, module.get_base_layer())
    model._hf_peft_config_loaded = False
    return model


def target_layers(model: PreTrainedModel, targets: str) -> list[str]:
    """Names of the linear layers that `targets` means. Raises ValueError when there is none."""
    linear = list(_linear_layers(model))
    found = [name for name in linear if targets == ALL_LINEAR or re.fullmatch(targets, name)]
    if not found:
        some = ", ".join(dict.fromkeys(re.sub(r"\d+", "0", name) for name in linear))
        raise ValueError(f"targets {targets!r} matches no linear layer; there are {some}")
    return found


def target_matrices(model: PreTrainedModel, targets: str) -> list[str]:
    """Matrices that `all-linear` means beside layers: a projector's own, without a layer around them (Gemma 3)."""
    if targets != ALL_LINEAR:
        return []
    named = [(name.rpartition("."), parameter) for name, parameter in model.named_parameters()]
    return [
        f"{above}.{last}"
        for (above, _, last), parameter in named
        if PROJECTOR in above and last != "weight" and parameter.ndim == 2
    ]


def _linear_layers(model: PreTrainedModel) -> Iterator[str]:
    """Linear layers by name, adapted ones under the same name as before, without the output head."""
    head = model.get_output_embeddings()
    inside: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(above) for above in inside):
            continue
        if isinstance(module, BaseTunerLayer):
            inside.append(f"{name}.")
            module = module.get_base_layer()
        if isinstance(module, nn.Linear) and module is not head:
            yield name


def _adapted(model: PreTrainedModel) -> bool:
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def _check_same(model: PreTrainedModel, settings: LoraSettings, names: list[str]) -> None:
    (config,) = model.peft_config.values()
    there = {name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    found = (config.r, float(config.lora_alpha), len(there & set(names)) == len(names))
    if found != (settings.rank, float(settings.alpha), True):
        raise ValueError(
            f"lora: the checkpoint's adapter has rank {config.r} and alpha {config.lora_alpha:g} on {len(there)} "
            f"layers, but rank {settings.rank} and alpha {settings.alpha:g} on {len(names)} are asked for"
        )


def trainable(module: nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that an optimiser is given, in the module's order."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
