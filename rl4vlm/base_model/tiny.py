"""A tiny vision-language model of the LLaVA family: real Hugging Face classes, 1-3 M parameters, built from nothing.

It exists so that every stage runs on two CPU cores without a download. Its tokenizer is a byte-level BPE that may merge
across words, and the prompts' constant lines are tokens of their own, so sequences are short. What the player must read
or decide (numbers, card ranks, operators, the `"action":` key) is never merged with its surroundings.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from rl4vlm.config.stages.pretrain import TinySizes
from rl4vlm.models.loading import Backbone

PAD, END, IMAGE, USER, ASSISTANT = "<pad>", "</s>", "<image>", "<|user|>", "<|assistant|>"
KEPT_APART = r'"action":|\d+|[+\-*/()=]|\b[AJQK]\b'
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '" + USER + "' if message['role'] == 'user' else '" + ASSISTANT + "' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{{ '" + IMAGE + "' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}"
    "{% if message['role'] != 'user' %}{{ '" + END + "' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + ASSISTANT + "' }}{% endif %}"
)


def kept_apart(words: Collection[str] = ()) -> str:
    """The regular expression of what is never merged with its surroundings.

    With `words` (names of things, verbs) these are kept whole too, each with the space before it, and so are numbers:
    what is said of a thing in one place is then the same token as in another.
    """
    if not words:
        return KEPT_APART
    known = "|".join(re.escape(word) for word in sorted(words))
    return rf' (?:{known})(?![a-z])|(?<![a-z])(?:{known})(?![a-z])|"action":| ?\d+|[+\-*/()=]'


def train_tokenizer(
    texts: Iterable[str], phrases: Iterable[str], vocabulary: int, words: Collection[str] = ()
) -> PreTrainedTokenizerFast:
    """Train the BPE on `texts`, with each of `phrases` a token and `words` kept apart (`kept_apart`).

    Any other text still encodes, byte by byte at worst.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(kept_apart(words)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(token, special=True) for token in (PAD, END, IMAGE, USER, ASSISTANT)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens={"image_token": IMAGE},
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast, sizes: TinySizes) -> LlavaProcessor:
    """The LLaVA processor: pictures squared to `sizes.image_size`, one placeholder a patch, and the chat template."""
    edge = {"height": sizes.image_size, "width": sizes.image_size}
    # White becomes 0: what is to be read is ink on white, and stands out from blank patches from the first step on.
    images = CLIPImageProcessorPil(
        size=edge, crop_size=edge, do_center_crop=False, image_mean=[1.0] * 3, image_std=[0.5] * 3
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=sizes.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )


def build(
    texts: Iterable[str],
    sizes: TinySizes,
    seed: int,
    phrases: Iterable[str] = (),
    words: Collection[str] = (),
) -> Backbone:
    """A randomly initialised tiny LLaVA whose tokenizer is trained on `texts`; the same seed gives the same weights."""
    tokenizer = train_tokenizer(texts, phrases, sizes.vocabulary, words)
    vision = CLIPVisionConfig(
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.heads,
        image_size=sizes.image_size,
        patch_size=sizes.patch,
        projection_dim=sizes.width,
        initializer_range=sizes.spread,
    )
    language = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.language_layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.heads,
        max_position_embeddings=2048,
        initializer_range=sizes.spread,
        rope_parameters={"rope_type": "default", "rope_theta": sizes.rope},
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=language,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=sizes.image_tokens,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return Backbone(model, build_processor(tokenizer, sizes))
