"""Load a vision-language model from a folder or the Hugging Face hub, with its processor (`processors.py`)."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from rl4vlm.config.stages.backbone import LoraSettings, is_hub_name
from rl4vlm.config.stages.cnn import CNN_CONFIG
from rl4vlm.core.output import check_unchanged
from rl4vlm.models.config_size import check_size
from rl4vlm.models.encode import Encoder
from rl4vlm.models.lora import base_of, ensure_adapter, freeze_weights, is_adapter, load_adapter, merge, name_in_order
from rl4vlm.models.older_transformers import accept_older_names
from rl4vlm.models.output_head import use_float32_head
from rl4vlm.models.processors import count_placeholders, load_processor, with_one_view
from rl4vlm.models.weights import check_finite_weights, check_readable, check_whole, saving
from rl4vlm.results.provenance import meant_checkpoint

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
QUANTIZED = ("4bit", "8bit")
HUB_SECONDS = 10.0


@dataclass(frozen=True)
class Backbone:
    """A vision-language model with the processor that prepares its inputs."""

    model: PreTrainedModel
    processor: ProcessorMixin

    def save(self, folder: Path) -> None:
        """Write a Hugging Face checkpoint of model and processor; of a model with adapters, only the adapters.

        The generation config is that of `use_own_generation`.

        Raises:
            ValueError: a weight is not finite.
        """
        check_finite_weights(self.model.named_parameters(), folder)
        use_own_generation(self.model, Encoder(self.processor))
        name_in_order(self.model)
        with saving(folder):
            self.model.save_pretrained(folder)
            if is_adapter(folder):
                # PEFT saves neither config. The model's may differ from that of its base model (one_view).
                config = deepcopy(self.model.config)
                config.__dict__.pop("quantization_config", None)  # chosen anew whenever the base model is loaded
                config.save_pretrained(folder)
                self.model.generation_config.save_pretrained(folder)
            self.processor.save_pretrained(folder)


def use_own_generation(model: PreTrainedModel, encoder: Encoder) -> None:
    """Replace the model's generation config by one that samples from this project's policy.

    The policy suppresses all special tokens but the end token, and samples from all others. With this config, programs
    that load a saved checkpoint, such as `transformers serve`, draw from it too. Whatever else the model's own config
    asks for, such as a repetition penalty or top-k, is dropped, because replies are scored without it.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=own.bos_token_id,
        eos_token_id=encoder.eos_id,
        pad_token_id=encoder.pad_id,
        suppress_tokens=encoder.suppressed_ids(model.get_output_embeddings().out_features).tolist(),
        do_sample=True,
        top_k=0,  # no limit; the default is 50
        top_p=1.0,
    )


def load_backbone(
    source: str | Path,
    *,
    dtype: str = "float32",
    quantize: str | None = None,
    attn_implementation: str | None = None,
    one_view: bool = False,
    lora: LoraSettings | None = None,
    freeze: str | None = None,
    **model_options: Any,
) -> Backbone:
    """Load an image-text-to-text checkpoint. If it holds adapters, load them on top of their base model.

    Args:
        source: folder or hub name of a Hugging Face checkpoint.
        dtype: number format of the weights, a key of `DTYPES`.
        quantize: `4bit` or `8bit` quantises the weights of linear layers with bitsandbytes. They are then frozen, but
            adapters on them can be trained (QLoRA, Dettmers et al. 2023).
        attn_implementation: how attention is computed, as transformers calls it; None is its choice.
        one_view: encode each image once, without a grid of views. The paper's LLaVA-1.6 sees one of 336x336 pixels.
        lora: adapters to train. If the checkpoint has adapters, they must have these settings.
        freeze: regular expression for the whole names of parameters that are not trained.
        model_options: further arguments of `from_pretrained`.

    Raises:
        ValueError: an argument is unknown, `freeze` matches no parameter or leaves none to train, there is no
            checkpoint at `source`, it is damaged, some of its weights are missing, not finite or have another shape,
            or its processor needs a package that is not installed.
    """
    accept_older_names()
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if quantize is not None:
        model_options["quantization_config"] = quantization(quantize, DTYPES[dtype])
    _check_files(source)
    adapter = Path(source) if is_adapter(source) else None
    weights, whose = source, ""
    if adapter is not None:
        weights, whose = base_of(adapter), f" (the base model of the adapter in {adapter})"
        _check_files(weights, whose)
    with _as_checkpoint(source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        processor = load_processor(source)
        if one_view:
            config, processor = with_one_view(config, processor)
        count_placeholders(config, processor)
        check_size(config, Path(weights))
        model, found = AutoModelForImageTextToText.from_pretrained(
            weights,
            config=config,
            trust_remote_code=False,
            dtype=DTYPES[dtype],
            attn_implementation=attn_implementation,
            output_loading_info=True,
            # Continue past weights of another shape: transformers' error does not name them, `check_whole` does.
            ignore_mismatched_sizes=True,
            **model_options,
        )
        adapter_found = None if adapter is None else load_adapter(model, adapter)
    check_whole(weights, found, whose)
    if adapter is not None and adapter_found is not None:
        check_whole(adapter, adapter_found)
    check_finite_weights(model.named_parameters(), source)
    if lora is not None:
        ensure_adapter(model, lora)
    if adapter is not None or lora is not None:
        _keep_gradients(model)
    use_float32_head(model)
    if freeze is not None:
        freeze_weights(model, freeze)
    return Backbone(model, processor)


def check_loadable(source: str | Path) -> None:
    """Raise ValueError as `load_backbone` does, as far as a folder's files show it: no weights are loaded."""
    accept_older_names()
    _check_files(source)
    with _as_checkpoint(source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        load_processor(source)
        check_size(config, Path(source))


@contextmanager
def _as_checkpoint(source: str | Path) -> Iterator[None]:
    """Turn any error of the block but a lack of memory into a ValueError that names the checkpoint."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except ImportError as error:
        raise ValueError(f"{str(source)!r} needs a package that is not installed: {error}") from error
    except Exception as error:
        name_code_of_its_own(error, source)
        # The libraries raise errors of many types for a file that is not what they expect.
        raise ValueError(f"no image-text-to-text checkpoint at {str(source)!r}: {error or repr(error)}") from error


def name_code_of_its_own(error: Exception, source: str | Path) -> None:
    """Raise a clear ValueError in place of transformers' advice to trust the code that comes with a checkpoint."""
    if "trust_remote_code" in str(error):
        raise ValueError(f"{str(source)!r} needs Python code of its own, and such code is never run") from error


def _keep_gradients(model: PreTrainedModel) -> None:
    """Stop bitsandbytes from repacking 4-bit weights on CPUs.

    It repacks a layer when the layer first runs in evaluation mode, which PPO trains in. A repacked layer passes no
    gradient.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def write_merged(adapter: Path, folder: Path, *, dtype: str) -> None:
    """Merge a checkpoint's adapters into its base model and save that, for programs that cannot load adapters."""
    backbone = load_backbone(adapter, dtype=dtype)
    Backbone(merge(backbone.model), backbone.processor).save(folder)


def check_there(source: str | Path, what: str = "") -> None:
    """Raise ValueError if `source` is neither a folder nor a model of the hub or its cache; `what` describes it.

    A folder must pass `check_language`.
    """
    name = str(source)
    if Path(source).is_dir():
        check_language(source, what)
        return
    if not is_hub_name(name):
        raise ValueError(
            f"no model at {name!r}{what}: there is no such folder, and a hub name has the form owner/model"
        )
    if constants.HF_HUB_OFFLINE:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            raise ValueError(
                f"no model at {name!r}{what}: no such folder, none in the cache, and HF_HUB_OFFLINE is set"
            )
        return
    # Ask once: transformers would ask for file after file, for minutes, also if the name is that of a misspelt folder.
    try:
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except Exception as error:  # the hub's errors and those of connections have no common type
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            raise ValueError(
                f"no model at {name!r}{what}: there is no such folder, and the hub does not give it: {error}"
            ) from error
        logger.warning("the hub does not answer (%s): %s is taken from the cache", error, name)
        constants.HF_HUB_OFFLINE = True


def check_language(folder: str | Path, what: str = "") -> None:
    """Raise ValueError if a folder is a run's instead of its checkpoint's, or a CNN+RL checkpoint."""
    if Path(folder, CNN_CONFIG).is_file():
        raise ValueError(f"{str(folder)!r}{what} is a CNN+RL checkpoint and no vision-language model")
    if not Path(folder, "config.json").is_file() and (meant := meant_checkpoint(folder)):
        raise ValueError(f"no image-text-to-text checkpoint at {str(folder)!r}{what}{meant}")


def _check_files(source: str | Path, whose: str = "") -> None:
    check_there(source, whose)
    if (folder := Path(source)).is_dir():
        check_unchanged(folder)
        check_readable(folder)


def quantization(kind: str, compute: torch.dtype) -> BitsAndBytesConfig:
    """The bitsandbytes config: `4bit` is NF4 with double quantisation, `8bit` is LLM.int8().

    Raises:
        ValueError: the kind is unknown, or bitsandbytes is not installed.
    """
    if kind not in QUANTIZED:
        raise ValueError(f"quantize {kind!r} is not one of {', '.join(QUANTIZED)}")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            f"quantize {kind!r} needs bitsandbytes, which is not installed: "
            "it comes with this package's extra 'quantized' (in a checkout: pip install -e '.[quantized]')"
        )
    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )
