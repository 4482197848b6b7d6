"""A tiny vision-language model of the LLaVA family: Hugging Face's own classes with 1-3 M parameters.

With it every stage runs on two CPU cores without a download. Its tokenizer keeps sequences short: it is a byte-level
BPE that may merge across words, and each constant line of a prompt is one token. What the player must read or decide
(numbers, card ranks, operators, the `"action":` key) is never merged with its surroundings.
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
    """The regular expression for text that is never merged with its surroundings.

    `words`, such as names of objects, are kept whole with the space before them, and so are numbers. An object then has
    the same token wherever it is mentioned.
    """
    if not words:
        return KEPT_APART
    known = "|".join(re.escape(word) for word in sorted(words))
    return rf' (?:{known})(?![a-z])|(?<![a-z])(?:{known})(?![a-z])|"action":| ?\d+|[+\-*/()=]'


def train_tokenizer(
    texts: Iterable[str], phrases: Iterable[str], vocabulary: int, words: Collection[str] = ()
) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE, which can encode any text.

    Args:
        texts: what to train on.
        phrases: texts that become one token each.
        vocabulary: number of tokens, without phrases.
        words: words to keep whole (`kept_apart`).
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(kept_apart(words)), behavior="isolated"),
            # `use_regex` would split the text into words; without it, a token may hold several words.
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(token, special=True) for token in (PAD, END, IMAGE, USER, ASSISTANT)],
        # All 256 bytes, so that any text can be encoded.
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
    """The LLaVA processor: images of `sizes.image_size`, one placeholder per patch, and the chat template."""
    edge = {"height": sizes.image_size, "width": sizes.image_size}
    # White becomes 0. The images are ink on white, so blank patches are 0 and what is drawn stands out from the start.
    images = CLIPImageProcessorPil(
        size=edge, crop_size=edge, do_center_crop=False, image_mean=[1.0] * 3, image_std=[0.5] * 3
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=sizes.patch,
        vision_feature_select_strategy="default",
        # CLIP's class token: it is counted here, and the strategy "default" drops it again.
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
    """A tiny LLaVA with random weights, which the seed determines, and a tokenizer (`train_tokenizer`)."""
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
        # The last layer. LLaVA's own default is the last but one, for a tower that was trained on captions.
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=sizes.image_tokens,
        tie_word_embeddings=True,
    )
    # Leave the caller's random state as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return Backbone(model, build_processor(tokenizer, sizes))
