"""Loading a vision-language model and its processor: one path for the tiny model, hub names and local folders."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, ParallelismConfig
from accelerate.state import PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
)
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    CLIPImageProcessorPil,
    GenerationConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.models.encode import Encoder
from rl4vlm.models.lora import base_of, ensure_adapter, is_adapter, load_adapter, merge, name_in_order

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
QUANTIZED = ("4bit", "8bit")
CPU_REPACKING = "support_avx512bf16_for_cpu"
LLAVA_SHARED = (
    "vision_config",
    "text_config",
    "image_token_id",
    "projector_hidden_act",
    "vision_feature_select_strategy",
    "vision_feature_layer",
    "multimodal_projector_bias",
    "tie_word_embeddings",
)
"""What the configs of LLaVA and LLaVA-NeXT have in common."""
WRONG_SHOWN = 3
"""How many of the weights that are not as they should be an error names."""
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Backbone:
    """A vision-language model with the processor that prepares its inputs."""

    model: PreTrainedModel
    processor: ProcessorMixin

    def save(self, folder: Path) -> None:
        """Write model and processor as an ordinary Hugging Face checkpoint, of an adapted model the adapter alone.

        Its generation config is that of `use_own_generation`, whatever the model came with.
        """
        use_own_generation(self.model, Encoder(self.processor))
        name_in_order(self.model)
        self.model.save_pretrained(folder)
        if is_adapter(folder):
            # An adapter's own files say nothing of these, and the config may differ from the base model's (one view).
            config = deepcopy(self.model.config)
            # The base model's weights are in their own format; how they are held is chosen anew when they are loaded.
            config.__dict__.pop("quantization_config", None)
            config.save_pretrained(folder)
            self.model.generation_config.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def use_own_generation(model: PreTrainedModel, encoder: Encoder) -> None:
    """Give a model a generation config that says how replies are made here: no special token but the end token, and
    sampled, where a temperature is asked for, from all that is left.

    So whatever else generates from a saved checkpoint, `transformers serve` among them, draws from the same policy.
    What the model's own config asked for beside that (a repetition penalty, a least length, a choice among few) is
    dropped: replies are scored without it, so they must not be sampled with it.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=own.bos_token_id,
        eos_token_id=encoder.eos_id,
        pad_token_id=encoder.pad_id,
        suppress_tokens=encoder.suppressed_ids().tolist(),
        do_sample=True,
        top_k=0,  # no limit; without it, 50 would be
        top_p=1.0,
    )


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU; any other name is torch's own.

    Raises ValueError for a name that torch does not know, or a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is not one that torch knows (auto, cpu, cuda, cuda:1)") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} GPUs")
    return device


def accelerator_on(name: str, process_timeout: float = 1800.0) -> Accelerator:
    """An accelerator for training on the device that `choose_device` makes of `name`.

    Of several processes (`accelerate launch`) each takes the GPU of its own local rank. Where they exchange gradients
    a process waits at most `process_timeout` seconds for the others, then it fails.

    With `config/accelerate/fsdp.yaml` they split weights, gradients and the optimiser's moments (FSDP2).

    Raises ValueError for a GPU by number where several processes were launched: they would share it; and for other ways
    of sharing a training, such as DeepSpeed.
    """
    _check_launched()
    device = choose_device(name)
    if device.type == "cuda" and device.index is not None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(f"device {name!r} is one GPU, but several processes were launched: say cuda or auto")
        torch.cuda.set_device(device)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=timedelta(seconds=process_timeout)),
            # A backbone may have weights that no reply depends on, such as a vision tower's last layer. Gradients are
            # parts of the buckets that are exchanged, not copied to them.
            DistributedDataParallelKwargs(find_unused_parameters=True, gradient_as_bucket_view=True),
        ],
    )
    if accelerator.distributed_type == DistributedType.MULTI_CPU and _launched("FSDP"):
        _split_on_cpu(accelerator)
    return accelerator


def _split_on_cpu(accelerator: Accelerator) -> None:
    """Accelerate splits weights on GPUs only, but torch does on CPUs as well."""
    over_all = ParallelismConfig(dp_shard_size=accelerator.num_processes)
    # In both: each further look at the accelerator's state begins with a copy of the process's.
    PartialState().distributed_type = DistributedType.FSDP
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    # Or torch would take the GPUs of a machine that has some.
    accelerator.state.parallelism_config = over_all
    accelerator.state.device_mesh = over_all.get_device_mesh("cpu")


def _launched(way: str) -> bool:
    """Whether the launcher's config asks for this way of sharing a training, as accelerate hands it on."""
    return os.environ.get(f"ACCELERATE_USE_{way}", "false").lower() == "true"


def _check_launched() -> None:
    for way in ("DEEPSPEED", "MEGATRON_LM"):
        if _launched(way):
            raise ValueError(f"training by {way} is not built: use config/accelerate/ddp.yaml or fsdp.yaml")
    if _launched("FSDP") and os.environ.get("FSDP_VERSION") != "2":
        raise ValueError(
            "training by FSDP of version 1 is not built: use config/accelerate/fsdp.yaml (fsdp_version: 2)"
        )


def load_backbone(
    source: str | Path,
    *,
    dtype: str = "float32",
    quantize: str | None = None,
    one_view: bool = False,
    lora: LoraSettings | None = None,
    **model_options: Any,
) -> Backbone:
    """Load an image-text-to-text checkpoint by folder or hub name; an adapter's with its base model.

    Args:
        source: a Hugging Face checkpoint, or one of this project's whose adapter names its base model.
        dtype: number format of the weights, a key of `DTYPES`.
        quantize: `4bit` or `8bit` keeps the weights of linear layers so, by bitsandbytes; they cannot be trained then,
            but adapters on them can (QLoRA, Dettmers et al. 2023).
        one_view: show each picture once, without a grid of further views (the paper's LLaVA-1.6 sees one of 336x336
            pixels, 576 tokens).
        lora: adapters to train; those that an adapter's checkpoint already has must be the same.
        model_options: further keyword arguments of `from_pretrained`.

    Raises:
        ValueError: `dtype` or `quantize` is unknown, `source` holds no such checkpoint, lacks weights or has them in
            another shape, or its processor needs a package that is not there; it is named.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if quantize is not None:
        model_options["quantization_config"] = quantization(quantize, DTYPES[dtype])
    _check_there(source)
    adapter = Path(source) if is_adapter(source) else None
    weights = source if adapter is None else base_of(adapter)
    if adapter is not None:
        _check_there(weights, f" (the base model of the adapter in {adapter})")
    try:
        processor = load_processor(source)
        config = AutoConfig.from_pretrained(source)
        if one_view:
            config, processor = with_one_view(config, processor)
        model, found = AutoModelForImageTextToText.from_pretrained(
            weights,
            config=config,
            dtype=DTYPES[dtype],
            output_loading_info=True,
            # Or the library's own error, which does not name them, would come first.
            ignore_mismatched_sizes=True,
            **model_options,
        )
    except OSError as error:
        raise ValueError(f"no image-text-to-text checkpoint at {str(source)!r}: {error}") from error
    except ImportError as error:
        raise ValueError(f"{str(source)!r} needs a package that is not installed: {error}") from error
    _check_whole(weights, found)
    if adapter is not None:
        _check_whole(adapter, load_adapter(model, adapter))
    if lora is not None:
        ensure_adapter(model, lora)
    if adapter is not None or lora is not None:
        _keep_gradients(model)
    return Backbone(model, processor)


def _check_whole(source: str | Path, found: Mapping[str, Any]) -> None:
    """Raise ValueError where the library, as it loaded a checkpoint, gave weights random values for want of others.

    `found` is its `output_loading_info`, which counts no weight that is tied to one that is there. Weights left over
    are no mistake: with one view LLaVA-NeXT's mark for the end of a row is.
    """
    wrong = [f"{name} is missing" for name in sorted(found["missing_keys"])]
    wrong += [
        f"{name} has shape {tuple(there)}, not {tuple(here)}" for name, there, here in sorted(found["mismatched_keys"])
    ]
    if wrong:
        more = f" and {len(wrong) - WRONG_SHOWN} more" if len(wrong) > WRONG_SHOWN else ""
        raise ValueError(f"the weights at {str(source)!r} are not whole: {', '.join(wrong[:WRONG_SHOWN])}{more}")


def _keep_gradients(model: PreTrainedModel) -> None:
    """On CPUs bitsandbytes repacks 4-bit weights when a layer is first evaluated, and no gradient passes from then on:
    PPO, which trains in evaluation mode, must do without."""
    for module in model.modules():
        if hasattr(module, CPU_REPACKING):
            setattr(module, CPU_REPACKING, False)


def write_merged(adapter: Path, folder: Path, *, dtype: str) -> None:
    """Write the same policy as an adapter's checkpoint without adapters, for programs that cannot put them together."""
    backbone = load_backbone(adapter, dtype=dtype)
    Backbone(merge(backbone.model), backbone.processor).save(folder)


def _check_there(source: str | Path, what: str = "") -> None:
    # Asked for a folder that is not there, the hub's client would look for it on the network for minutes.
    if not Path(source).is_dir() and not HUB_NAME.fullmatch(str(source)):
        raise ValueError(
            f"no model at {str(source)!r}{what}: neither a folder that is there nor a hub name (owner/model)"
        )


def quantization(kind: str, compute: torch.dtype) -> BitsAndBytesConfig:
    """How bitsandbytes is to keep weights: `4bit` is NF4 with the scales quantised too, `8bit` is LLM.int8.

    Raises ValueError for another kind, or where bitsandbytes is not installed.
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


def load_processor(source: str | Path) -> ProcessorMixin:
    """A checkpoint's processor; where only its part for videos cannot be loaded, the same processor without that.

    The video parts of some families need torchvision, which nothing here uses: games show single pictures.
    """
    try:
        return AutoProcessor.from_pretrained(source)
    except (ImportError, OSError) as error:
        kind = PROCESSOR_MAPPING.get(type(AutoConfig.from_pretrained(source)), None)
        if kind is None or "video_processor" not in kind.get_attributes():
            raise
        logger.info("%s without its video part: %s", kind.__name__, error)
        return without_videos(kind).from_pretrained(source)


def without_videos(kind: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """The processor class of a family with everything but its video part; its checkpoints name the family's own."""
    attributes = kind.get_attributes()
    place = attributes.index("video_processor")

    class ImagesOnly(kind):
        # A family's own asks the video part for its defaults.
        apply_chat_template = ProcessorMixin.apply_chat_template

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in attributes if name != "video_processor"]

        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **kwargs: Any) -> list[Any]:
            parts: list[Any] = super()._get_arguments_from_pretrained(*args, **kwargs)
            return [*parts[:place], None, *parts[place:]]

    ImagesOnly.__name__ = ImagesOnly.__qualname__ = kind.__name__
    return ImagesOnly


def with_one_view(config: PreTrainedConfig, processor: ProcessorMixin) -> tuple[PreTrainedConfig, ProcessorMixin]:
    """Config and processor that show each picture once, where a family would add views of its parts.

    LLaVA-NeXT without its grid of views is LLaVA: the same vision tower, projector and language model, and no marks for
    the ends of rows.

    Raises:
        ValueError: a family whose further views this does not know how to leave out.
    """
    if hasattr(processor.image_processor, "do_image_splitting"):
        processor.image_processor.do_image_splitting = False
    if not hasattr(config, "image_grid_pinpoints"):
        return config, processor
    if config.model_type != "llava_next":
        raise ValueError(f"one_view: not known for models of type {config.model_type!r}")
    shared = {name: getattr(config, name) for name in LLAVA_SHARED}
    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    plain = LlavaConfig(**shared, image_seq_length=(side // patch) ** 2)
    edge = {"height": side, "width": side}
    images = processor.image_processor
    return plain, LlavaProcessor(
        # The picture is squared, as LLaVA-NeXT does with the view of the whole.
        image_processor=CLIPImageProcessorPil(
            size=edge, crop_size=edge, image_mean=images.image_mean, image_std=images.image_std
        ),
        tokenizer=processor.tokenizer,
        patch_size=patch,
        vision_feature_select_strategy=processor.vision_feature_select_strategy,
        num_additional_image_tokens=processor.num_additional_image_tokens,
        chat_template=processor.chat_template,
        image_token=processor.image_token,
    )
