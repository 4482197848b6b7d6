"""Tiny checkpoints with random weights of real model families, saved like the real ones.

Each holds the family's own model class, image processor, special tokens and chat format; only the sizes and the
vocabulary are small. An image becomes 4 to 80 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
    SmolVLMProcessor,
)

from rl4vlm.models.processors import without_videos
from tests.conftest import TEXTS

WIDTH, MLP, HEADS, LAYERS = 32, 64, 2, 2
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
}
VISION = {"hidden_size": WIDTH, "intermediate_size": MLP, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}


@dataclass(frozen=True)
class Family:
    """How one family's tiny checkpoint is written, and what it holds.

    Attributes:
        write: writes the checkpoint to a folder.
        parts: prefixes of the names of parameters: of the vision tower, the projector and the language model.
        image_token: the token that stands for an image in a prompt.
        image_tokens: number of these tokens for an image of 300x300 pixels, by the family's documentation.
        needs: packages without which the family's full processor cannot be made.
    """

    write: Callable[[Path], None]
    parts: tuple[str, str, str]
    image_token: str
    image_tokens: int
    needs: tuple[str, ...] = ()


def tokenizer(special: Sequence[str], *, end: str, pad: str, begin: str | None = None, **named: str) -> Any:
    """A byte-level BPE trained on the tests' texts, with special tokens; it adds `begin`, if given, to texts."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=[AddedToken(token, special=True) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS, trainer)
    if begin is not None:
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, bpe.token_to_id(begin))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=pad,
        eos_token=end,
        bos_token=begin,
        extra_special_tokens=named,
        clean_up_tokenization_spaces=False,
    )


def save(folder: Path, kind: type[PreTrainedModel], config: PreTrainedConfig, processor: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config)
        for name, parameter in model.named_parameters():
            if name.endswith("mm_input_projection_weight"):  # Gemma 3 begins at 0, where no gradient passes
                torch.nn.init.normal_(parameter, std=0.2)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def chat(before: str, image: str, after: str) -> str:
    """A chat template: `before`, the user's turn with `image` as placeholder, then `after`, where the reply begins."""
    return (
        "{% for message in messages %}{{ '" + before + "' }}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}{{ '" + image + "' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '" + after + "' }}{% endif %}"
    )


def write_llava_next(folder: Path, side: int = 28, patch: int = 14, head_dim: int | None = None) -> None:
    """LLaVA-1.6 with Mistral: views in a grid and of the whole, newlines between rows; its template writes no <s>."""
    tokens = tokenizer(
        ["<unk>", "<s>", "</s>", "<image>", "<pad>"], end="</s>", pad="<pad>", begin="<s>", image_token="<image>"
    )
    pinpoints = [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=side, patch_size=patch, projection_dim=WIDTH),
        text_config=MistralConfig(
            **TEXT,
            head_dim=head_dim,
            sliding_window=None,  # as of Mistral 0.2
            vocab_size=len(tokens),
            eos_token_id=tokens.eos_token_id,
            bos_token_id=tokens.bos_token_id,
        ),
        image_token_id=tokens.image_token_id,
        image_grid_pinpoints=pinpoints,
        tie_word_embeddings=False,
    )
    edge = {"height": side, "width": side}
    images = LlavaNextImageProcessorPil(size={"shortest_edge": side}, crop_size=edge, image_grid_pinpoints=pinpoints)
    processor = LlavaNextProcessor(
        images,
        tokens,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat("[INST] ", "<image>\\n", " [/INST]"),
    )
    save(folder, LlavaNextForConditionalGeneration, config, processor)


QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def write_qwen(folder: Path, processor: Any, model: Any, config: Any, text: dict[str, Any], **vision: Any) -> None:
    """What both Qwen families share: ChatML, the patches of all images in one row, and M-RoPE."""
    tokens = tokenizer([*QWEN, *QWEN_VISION], end="<|im_end|>", pad="<|endoftext|>")
    ids = dict(zip(("start", "end", "image", "video"), tokens.convert_tokens_to_ids(list(QWEN_VISION)), strict=True))
    made = config(
        text_config={**TEXT, **text, "vocab_size": len(tokens), "eos_token_id": tokens.eos_token_id},
        vision_config={
            "depth": LAYERS,
            "hidden_size": WIDTH,
            "intermediate_size": MLP,
            "num_heads": HEADS,
            "out_hidden_size": WIDTH,
            **vision,
        },
        image_token_id=ids["image"],
        video_token_id=ids["video"],
        vision_start_token_id=ids["start"],
        vision_end_token_id=ids["end"],
    )
    side = 4 * vision["patch_size"]
    images = Qwen2VLImageProcessorPil(
        # A maximum slightly above 4x4 patches, which is rounded down to 4x4.
        size={"shortest_edge": side * side, "longest_edge": (side + 4) ** 2},
        patch_size=vision["patch_size"],
    )
    template = chat(
        "<|im_start|>user\\n",
        "<|vision_start|><|image_pad|><|vision_end|>",
        "<|im_end|>\\n<|im_start|>assistant\\n",
    )
    save(folder, model, made, without_videos(processor)(images, tokens, None, chat_template=template))


def write_qwen25(folder: Path) -> None:
    write_qwen(
        folder,
        Qwen2_5_VLProcessor,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLConfig,
        {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}},
        patch_size=14,
        window_size=56,
        fullatt_block_indexes=[1],
    )


def write_qwen3(folder: Path) -> None:
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "mrope_interleaved": True, "rope_theta": 1e4}
    write_qwen(
        folder,
        Qwen3VLProcessor,
        Qwen3VLForConditionalGeneration,
        Qwen3VLConfig,
        {"head_dim": 16, "rope_parameters": rope},
        patch_size=16,
        num_position_embeddings=16,
        deepstack_visual_indexes=[0],
    )


def write_idefics(folder: Path, processor: Any, images: Any, model: Any, config: Any) -> None:
    """Idefics3 and SmolVLM: an image as tiles and as a whole, each of 4 tokens between tokens that name its place."""
    places = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    special = ["<|endoftext|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>", *places]
    tokens = tokenizer(special, end="<end_of_utterance>", pad="<|endoftext|>")
    made = config(
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        text_config=LlamaConfig(**TEXT, vocab_size=len(tokens), pad_token_id=tokens.pad_token_id).to_dict(),
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    edges = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
    template = chat("User:", "<image>", "<end_of_utterance>\\nAssistant:")
    save(folder, model, made, processor(images(**edges), tokens, image_seq_len=4, chat_template=template))


def write_idefics3(folder: Path) -> None:
    write_idefics(
        folder, Idefics3Processor, Idefics3ImageProcessorPil, Idefics3ForConditionalGeneration, Idefics3Config
    )


def write_smolvlm(folder: Path) -> None:
    processor: Any = without_videos(SmolVLMProcessor)
    kind = partial(processor, video_processor=None)
    write_idefics(folder, kind, SmolVLMImageProcessorPil, SmolVLMForConditionalGeneration, SmolVLMConfig)


def write_gemma3(folder: Path) -> None:
    """Gemma 3: attention among an image's tokens is bidirectional; layers alternate between sliding window and full."""
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokens = tokenizer([*special, *named.values()], end="<eos>", pad="<pad>", begin="<bos>", **named)
    config = Gemma3Config(
        text_config={
            **TEXT,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "full_attention"],
            "vocab_size": len(tokens),
        },
        vision_config={**VISION, "model_type": "siglip_vision_model", "image_size": 56, "patch_size": 14},
        mm_tokens_per_image=4,
        boi_token_index=tokens.boi_token_id,
        eoi_token_index=tokens.eoi_token_id,
        image_token_index=tokens.image_token_id,
    )
    template = chat("<bos><start_of_turn>user\\n", "<start_of_image>", "<end_of_turn>\\n<start_of_turn>model\\n")
    images = Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
    processor = Gemma3Processor(images, tokens, chat_template=template, image_seq_length=4)
    save(folder, Gemma3ForConditionalGeneration, config, processor)


LLAVA_PARTS = ("model.vision_tower.", "model.multi_modal_projector.", "model.language_model.")
QWEN_PARTS = ("model.visual.blocks.", "model.visual.merger.", "model.language_model.")
IDEFICS_PARTS = ("model.vision_model.", "model.connector.", "model.text_model.")

FAMILIES = {
    # The best grid for a square is 2x2 views of 28 pixels: 4x4 patches, a newline per row, and the whole in 2x2.
    "LlavaNext": Family(write_llava_next, LLAVA_PARTS, "<image>", 4 * 4 + 4 + 2 * 2),
    # 4x4 patches, merged two by two.
    "Qwen2.5-VL": Family(write_qwen25, QWEN_PARTS, "<|image_pad|>", 4, ("torchvision",)),
    "Qwen3-VL": Family(write_qwen3, QWEN_PARTS, "<|image_pad|>", 4, ("torchvision",)),
    # 2x2 tiles and the whole image.
    "Idefics3": Family(write_idefics3, IDEFICS_PARTS, "<image>", 5 * 4),
    "SmolVLM": Family(write_smolvlm, IDEFICS_PARTS, "<image>", 5 * 4, ("torchvision", "num2words")),
    "Gemma3": Family(write_gemma3, LLAVA_PARTS, "<image_soft_token>", 4),
}
