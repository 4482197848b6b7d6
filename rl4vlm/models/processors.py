"""The processors of vision-language models: loaded without their video part, with the right number of image tokens, and
without further views of an image."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoProcessor,
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedConfig,
    ProcessorMixin,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

logger = logging.getLogger(__name__)

LLAVA_SHARED = (
    "vision_config", "text_config", "image_token_id", "projector_hidden_act", "tie_word_embeddings",
    "vision_feature_select_strategy", "vision_feature_layer", "multimodal_projector_bias",
)  # fmt: skip
"""Config fields that LLaVA and LLaVA-NeXT share."""


def load_processor(source: str | Path) -> ProcessorMixin:
    """A checkpoint's processor, without its video part if that cannot be loaded.

    The video parts of some families need torchvision, which is not installed: games show single images.
    """
    try:
        return AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except (ImportError, OSError) as error:
        kind = PROCESSOR_MAPPING.get(type(AutoConfig.from_pretrained(source, trust_remote_code=False)), None)
        if kind is None or "video_processor" not in kind.get_attributes():
            raise
        logger.info("%s without its video part: %s", kind.__name__, error)
        return without_videos(kind).from_pretrained(source, trust_remote_code=False)


def without_videos(kind: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """A subclass of a family's processor that has no video part, but saves checkpoints under the family's name."""
    attributes = kind.get_attributes()
    place = attributes.index("video_processor")

    class ImagesOnly(kind):
        # The families' own versions of this method read defaults from the video part.
        apply_chat_template = ProcessorMixin.apply_chat_template

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in attributes if name != "video_processor"]

        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **kwargs: Any) -> list[Any]:
            # The constructor still has a positional argument for the video part.
            parts: list[Any] = super()._get_arguments_from_pretrained(*args, **kwargs)
            return [*parts[:place], None, *parts[place:]]

    ImagesOnly.__name__ = ImagesOnly.__qualname__ = kind.__name__
    return ImagesOnly


def count_placeholders(config: PreTrainedConfig, processor: ProcessorMixin) -> None:
    """Let a LLaVA's processor write as many placeholders per image as the model has features of one.

    Processors that were saved before transformers 4.47 lack the numbers, and then write 575 for 576 features.
    """
    if isinstance(processor, LlavaProcessor | LlavaNextProcessor):
        processor.patch_size = config.vision_config.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        # CLIP puts a class token before the patches; SigLIP does not.
        processor.num_additional_image_tokens = int(config.vision_config.model_type == "clip_vision_model")


def with_one_view(config: PreTrainedConfig, processor: ProcessorMixin) -> tuple[PreTrainedConfig, ProcessorMixin]:
    """Change config and processor so that each image is encoded once, without views of its parts.

    LLaVA-NeXT without its grid of views is LLaVA: the same vision tower, projector and language model.

    Raises:
        ValueError: the model's family has further views, and this function cannot leave them out.
    """
    if hasattr(processor.image_processor, "do_image_splitting"):
        processor.image_processor.do_image_splitting = False
    if not hasattr(config, "image_grid_pinpoints"):
        return config, processor
    if config.model_type != "llava_next":
        raise ValueError(f"one_view is not supported for models of type {config.model_type!r}")
    shared = {name: getattr(config, name) for name in LLAVA_SHARED}
    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    plain = LlavaConfig(**shared, image_seq_length=(side // patch) ** 2)
    edge = {"height": side, "width": side}
    images = processor.image_processor
    return plain, LlavaProcessor(
        # Resize without keeping the aspect ratio, as LLaVA-NeXT does for its view of the whole image.
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
