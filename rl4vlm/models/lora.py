"""Low-rank adapters (LoRA, Hu et al. 2021) on a backbone, with PEFT. The paper's PPO uses rank 128 and alpha 256.

A backbone with adapters keeps its class, so other code need not know of them. Its checkpoint holds the adapters in
PEFT's format and the name of the base model, which is loaded from there.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from rl4vlm.config.stages.backbone import ALL_LINEAR, LoraSettings
from rl4vlm.models.config_size import stored_shapes

ADAPTER_FILE = "adapter_config.json"
PROJECTOR = "projector"


def is_adapter(source: str | Path) -> bool:
    """Whether `source` is a folder with an adapter."""
    return (Path(source) / ADAPTER_FILE).is_file()


def base_of(adapter: str | Path) -> str:
    """Folder or hub name of the model that an adapter was trained on, as its checkpoint records it.

    Raises:
        ValueError: the adapter's config is not one, or has entries that PEFT does not know.
    """
    try:
        with warnings.catch_warnings():
            # PEFT warns of entries that it does not know, and leaves them out: the adapter would be another one.
            warnings.simplefilter("error", UserWarning)
            recorded = str(PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path)
    except (KeyError, TypeError, ValueError, UserWarning) as error:
        raise ValueError(f"{Path(adapter, ADAPTER_FILE)} is no config of an adapter: {error!r}") from error
    if Path(recorded).is_dir():
        return recorded
    # The folder is recorded relative to where the training ran, which need not be where this runs. Look in the folders
    # above the adapter: one of them is the project's, or a copy of it.
    beside = (above / recorded for above in Path(adapter).resolve().parents)
    return str(next((folder for folder in beside if folder.is_dir()), recorded))


def ensure_adapter(model: PreTrainedModel, settings: LoraSettings) -> None:
    """Attach new adapters; if the model already has some, such as SFT's, check that they fit `settings`.

    Afterwards only the adapters are trainable. They are float32 whatever the backbone's dtype, since a bfloat16 weight
    would round steps of 1e-5 away.

    Raises:
        ValueError: nothing matches `targets`, or the model's adapters differ from `settings`.
    """
    names = target_layers(model, settings.targets)
    if _adapted(model):
        _check_same(model, settings, names)
        return
    matrices = target_matrices(model, settings.targets)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a fraction works as well
        lora_dropout=0.0,  # PPO compares the same network before and after an update
        target_modules=names,
        target_parameters=matrices or None,
    )
    model.add_adapter(config)
    in_float32(model)


def load_adapter(model: PreTrainedModel, folder: Path) -> dict[str, Any]:
    """Load the adapter in `folder` onto its base model, trainable. Returns the `output_loading_info`.

    Raises:
        ValueError: its config asks for a higher rank than its weights have, which could claim any amount of memory.
    """
    rank = PeftConfig.from_pretrained(str(folder)).r
    held = [shape[0] for name, shape in stored_shapes(folder).items() if "lora_A" in name]
    if held and rank > max(held):
        raise ValueError(f"{ADAPTER_FILE} asks for rank {rank:,}, but the weights in {folder} have rank {max(held)}")
    renamed = getattr(model, "_weight_conversions", None)
    found = model.load_adapter(str(folder), is_trainable=True)
    # `load_adapter` sets its own renaming of weights here. `save_pretrained` would apply it to a merged model, too.
    model._weight_conversions = renamed
    in_float32(model)
    return dict(found.to_dict())


def name_in_order(model: PreTrainedModel) -> None:
    """Sort the names of the adapted layers, so that the saved config has the same bytes in every process."""
    for config in getattr(model, "peft_config", {}).values():
        # PEFT keeps them in a set, whose order differs between processes.
        if isinstance(config.target_modules, set):
            config.target_modules = sorted(config.target_modules)


class MatrixInFloat32(nn.Linear):
    """A matrix of an adapter that is kept in float32 and multiplied in its input's dtype.

    PEFT would multiply in float32: on a GPU at about a twelfth of bfloat16's rate, and with a float32 copy of the input
    and the output of every layer.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return linear(input, self.weight.to(input.dtype))


def in_float32(model: PreTrainedModel) -> None:
    """Turn adapter weights into float32. If the backbone is coarser, they are multiplied in its dtype."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    if model.dtype.itemsize >= torch.float32.itemsize:
        return
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.cast_input_dtype_enabled = False
            for matrix in [*layer.lora_A.values(), *layer.lora_B.values()]:
                # The class alone changes, as in `output_head`. A parameter's adapter has no input, only a product.
                if type(matrix) is nn.Linear:
                    matrix.__class__ = MatrixInFloat32


def merge(model: PreTrainedModel) -> PreTrainedModel:
    """Add the adapters' products to the weights in place, and remove the adapters."""
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            above, _, last = name.rpartition(".")
            setattr(model.get_submodule(above), last, module.get_base_layer())  # in place of PEFT's wrapper
    model._hf_peft_config_loaded = False  # or `save_pretrained` would look for adapters
    return model


def merged_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The state dict that a model would have if its adapters were merged; the model stays as it is.

    An adapter's product can be smaller than the spacing of bfloat16 numbers, so it is added in float32, and the sum is
    rounded once. Weights without an adapter are not copied.
    """
    weights = {
        name.replace(".base_layer.", "."): weight for name, weight in model.state_dict().items() if "lora_" not in name
    }
    for above, layer in model.named_modules():
        if isinstance(layer, BaseTunerLayer):
            # An adapter on a parameter outside of linear layers has that parameter's name.
            name = f"{above}.{getattr(layer, 'parameter_name', 'weight')}"
            product = sum(layer.get_delta_weight(one) for one in layer.active_adapters)  # type: ignore[attr-defined]
            weights[name] = (weights[name].float() + product).to(weights[name].dtype)
    return weights


def target_layers(model: PreTrainedModel, targets: str) -> list[str]:
    """Names of the linear layers that `targets` matches. Raises ValueError if there is none."""
    linear = list(_linear_layers(model))
    found = [name for name in linear if targets == ALL_LINEAR or re.fullmatch(targets, name)]
    if not found:
        some = ", ".join(dict.fromkeys(re.sub(r"\d+", "0", name) for name in linear))
        raise ValueError(f"targets {targets!r} matches no linear layer; there are {some}")
    return found


def target_matrices(model: PreTrainedModel, targets: str) -> list[str]:
    """Names of a projector's matrices that are not in a linear layer (Gemma 3); `all-linear` includes them."""
    if targets != ALL_LINEAR:
        return []
    named = [(name.rpartition("."), parameter) for name, parameter in model.named_parameters()]
    return [
        f"{above}.{last}"
        for (above, _, last), parameter in named
        if PROJECTOR in above and last != "weight" and parameter.ndim == 2
    ]


def _linear_layers(model: PreTrainedModel) -> Iterator[str]:
    """Names of the linear layers except the output head; a layer with an adapter has the same name as without."""
    head = model.get_output_embeddings()
    inside: list[str] = []
    for name, module in model.named_modules():
        # An adapter's own matrices are linear layers too.
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
    (config,) = model.peft_config.values()  # a model here has one adapter at most
    there = {name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    found = (config.r, float(config.lora_alpha), len(there & set(names)) == len(names))
    if found != (settings.rank, float(settings.alpha), True):
        raise ValueError(
            f"lora: the checkpoint's adapter has rank {config.r} and alpha {config.lora_alpha:g} on {len(there)} "
            f"layers, but rank {settings.rank} and alpha {settings.alpha:g} on {len(names)} are asked for"
        )


def freeze_weights(model: nn.Module, pattern: str) -> None:
    """Train none of the parameters whose whole name matches a regular expression.

    Raises:
        ValueError: none matches, or no other parameter is trained.
    """
    found = [parameter for name, parameter in model.named_parameters() if re.fullmatch(pattern, name)]
    if not found:
        some = ", ".join(dict.fromkeys(re.sub(r"\d+", "0", name) for name, _ in model.named_parameters()))
        raise ValueError(f"freeze {pattern!r} matches no parameter; there are {some}")
    for parameter in found:
        parameter.requires_grad_(False)
    if not trainable(model):
        raise ValueError(f"freeze {pattern!r} leaves no parameter of the model to train")


def trainable(module: nn.Module) -> list[torch.nn.Parameter]:
    """The parameters with a gradient, in the module's order."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
