"""From (image, prompt, reply) to the input tensors of a vision-language model, and from token ids back to text.

Legend: B samples, N rows, S replies per row, P prompt length after left padding, R reply length after right padding,
L = P + S * R row length.
Prompts are padded on the left and replies on the right, so the first reply of every row starts at column P. Generation
and scoring therefore see the same positions.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from PIL import Image
from torch.nn.functional import pad
from transformers import CLIPImageProcessorPil, LlavaProcessor, ProcessorMixin

from rl4vlm.models.devices import to_device

IGNORED_LABEL = -100
PADDING, PROMPT = -1, 0
"""Values of `Batch.parts` at tokens that belong to no reply."""
TEMPLATE_FAILED = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)
"""What a chat template can raise: it is a program that comes with the model, and may fail in any of these ways."""


@dataclass(frozen=True)
class Encoded:
    """One encoded prompt.

    Attributes:
        input_ids: token ids (P,) int64, with one placeholder per image token.
        images: the model's image inputs, such as pixel values.
        marks: further inputs (P,) with a number per token, such as Gemma's `token_type_ids`.
        source: what was encoded, an image (H, W, 3) uint8 and a prompt.
    """

    input_ids: torch.Tensor
    images: Mapping[str, torch.Tensor]
    marks: Mapping[str, torch.Tensor] = field(default_factory=dict)
    source: tuple[torch.Tensor, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What is saved and sent to other processes: pixel values are left out if the raw image takes fewer bytes.
        `Encoder.whole` computes them again."""
        pixels = sum(tensor.nbytes for tensor in self.images.values())
        images = {} if self.source is not None and self.source[0].nbytes < pixels else self.images
        return {**vars(self), "key": self.key, "images": images}

    @cached_property
    def key(self) -> str:
        """A digest of all tensors: prompts with the same token ids and the same image have the same key."""
        digest = hashlib.sha256()
        for name, tensor in {"input_ids": self.input_ids, **self.images, **self.marks}.items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


class FastLlavaProcessor:
    """Does the work of LLaVA's processor: the same tensors in a fraction of the time (`benchmarks/encode.py`).

    After the resizing, each byte becomes a number that depends on its colour channel alone. A table of 3 by 256
    numbers, filled by the processor itself, does rescaling and normalisation in one look-up. All images get one size,
    so their number of tokens is always the same, and a prompt can be tokenised without its image.
    """

    def __init__(self, processor: LlavaProcessor) -> None:
        images = processor.image_processor
        self.size = (images.size["width"], images.size["height"])
        self.resample = images.resample
        levels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
        self.tables = images(Image.fromarray(levels), do_resize=False, return_tensors="np")["pixel_values"][0, :, 0]
        self.tokenizer, self.placeholder = processor.tokenizer, processor.image_token
        ids = processor(text=self.placeholder, images=[Image.new("RGB", self.size)])["input_ids"][0]
        self.image_tokens = ids.count(processor.image_token_id)
        # The same prompt comes with many images, so its token ids are cached by themselves.
        self.input_ids = lru_cache(maxsize=512)(self._input_ids)

    @classmethod
    def of(cls, processor: ProcessorMixin) -> FastLlavaProcessor | None:
        """The fast replacement of a processor; None if there is none.

        There is one for LLaVA's processor if it resizes to a fixed size, rescales and normalises as CLIP does, and does
        not crop.
        """
        images = getattr(processor, "image_processor", None)
        if type(processor) is not LlavaProcessor or not isinstance(images, CLIPImageProcessorPil):
            return None
        whole = images.do_resize and images.do_rescale and images.do_normalize and not images.do_center_crop
        fixed = {"height", "width"} <= {side for side, pixels in dict(images.size).items() if pixels}
        return cls(processor) if whole and fixed else None

    def _input_ids(self, chat: str, *, add_special_tokens: bool) -> torch.Tensor:
        """Token ids (P,) int64 of a chat with one image."""
        text = chat.replace(self.placeholder, self.placeholder * self.image_tokens)
        return torch.tensor(self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])

    def pixel_values(self, image: np.ndarray) -> torch.Tensor:
        """The pixel values (1, 3, height, width) float32 of an image (H, W, 3) uint8."""
        resized = np.asarray(Image.fromarray(image).resize(self.size, self.resample))
        pixels = np.empty((1, 3, *resized.shape[:2]), np.float32)
        for channel, table in enumerate(self.tables):
            # Every byte is an index of the table, so `clip` changes nothing: it only lets `take` write without a copy.
            np.take(table, resized[..., channel], out=pixels[0, channel], mode="clip")
        return torch.from_numpy(pixels)


class Encoder:
    """Encodes prompts with the processor's chat template; SFT, PPO and evaluation share it.

    Args:
        processor: of the backbone.
        cache_size: number of encoded (image, prompt) pairs to keep, since games show the same state often.
    """

    def __init__(self, processor: ProcessorMixin, cache_size: int = 512) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.eos_id = self._end_of_turn()
        self.pad_id = int(self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.eos_id)
        self._cache: OrderedDict[tuple[bytes, str], Encoded] = OrderedDict()
        self._cache_size = cache_size
        self.fast = FastLlavaProcessor.of(processor)

    def _special_ids(self) -> set[int]:
        added = self.tokenizer.added_tokens_decoder
        return {i for i, token in added.items() if token.special} | set(self.tokenizer.all_special_ids)

    def special_tokens(self) -> list[str]:
        """The texts that the tokenizer reads as special tokens wherever they stand."""
        return sorted(filter(None, self.tokenizer.convert_ids_to_tokens(sorted(self._special_ids()))))

    def _end_of_turn(self) -> int:
        """The token that ends a reply: the first special token that the chat template writes after one, such as Gemma's
        `<end_of_turn>`, or else the tokenizer's end of sequence."""
        said = "reply"
        turns = [("user", [{"type": "text", "text": ""}]), ("assistant", [{"type": "text", "text": said}])]
        try:
            chat = self.processor.apply_chat_template([{"role": role, "content": parts} for role, parts in turns])
        except TEMPLATE_FAILED:  # some templates refuse such a conversation
            chat = ""
        _, found, after = chat.rpartition(said)  # found is empty if the template drops the reply
        special = self._special_ids()
        ids = self.tokenizer(after, add_special_tokens=False)["input_ids"] if found else []
        return int(next((i for i in ids if i in special), self.tokenizer.eos_token_id))

    def suppressed_ids(self, vocabulary: int) -> torch.Tensor:
        """Ids (S,) that are never sampled: all special tokens but the one that ends a reply, and ids without a token.

        Args:
            vocabulary: number of ids that the model has logits for; many pad it beyond the tokenizer's.
        """
        no_tokens = set(range(vocabulary)) - set(self.tokenizer.get_vocab().values())
        return torch.tensor(sorted((self._special_ids() | no_tokens) - {self.eos_id}), dtype=torch.long)

    def chat(self, prompt: str) -> str:
        """The chat template's text for one user turn with an image and `prompt`, up to where the reply begins.

        Raises:
            ValueError: the template is missing or broken.
        """
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
        try:
            return self.processor.apply_chat_template([turn], add_generation_prompt=True)
        except TEMPLATE_FAILED as error:
            raise ValueError(
                f"the chat template of {self.tokenizer.name_or_path} cannot write a turn with an image and a text: "
                f"{type(error).__name__}: {error}"
            ) from error

    def prompt(self, image: np.ndarray, prompt: str) -> Encoded:
        """Encode an image (H, W, 3) uint8 with its prompt."""
        key = (image.tobytes(), prompt)  # arrays have no hash
        found = self._cache.get(key)
        if found is None:
            found = self._encode(image, prompt)
            self._cache[key] = found
            if len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)  # the least recently used
        else:
            self._cache.move_to_end(key)
        return found

    def whole(self, prompt: Encoded) -> Encoded:
        """The prompt with its image inputs. If it was saved or sent without them, each process computes them once."""
        if not prompt.images and prompt.source is not None:
            image, text = prompt.source
            vars(prompt)["images"] = self.prompt(image.numpy(), text).images  # the dataclass is frozen
        return prompt

    def _encode(self, image: np.ndarray, prompt: str) -> Encoded:
        source = torch.tensor(image), prompt
        chat = self.chat(prompt)
        begun = self._begun(chat)
        # A prompt that itself contains the image's placeholder is left to the processor, which refuses it.
        if self.fast and chat.count(self.fast.placeholder) == 1:
            ids = self.fast.input_ids(chat, add_special_tokens=not begun)
            return Encoded(ids, {"pixel_values": self.fast.pixel_values(image)}, source=source)
        inputs = self.processor(
            text=[chat], images=[Image.fromarray(image)], return_tensors="pt", add_special_tokens=not begun
        )
        ids = inputs.pop("input_ids")
        # `collate` makes the mask of the padded batch.
        inputs.pop("attention_mask", None)
        # Each family has its own names for inputs per token, so they are recognised by their shape.
        marks = {name: tensor[0] for name, tensor in inputs.items() if tensor.shape == ids.shape}
        images = {name: tensor for name, tensor in inputs.items() if name not in marks}
        return Encoded(ids[0], images, marks, source)

    def _begun(self, chat: str) -> bool:
        """Whether the template wrote the BOS token itself; the tokenizer must not add a second one."""
        return self.tokenizer.bos_token is not None and chat.startswith(self.tokenizer.bos_token)

    def unexpanded(self, prompt: str) -> list[int]:
        """Token ids of a prompt with one placeholder for its image, for programs that expand it (vLLM)."""
        chat = self.chat(prompt)
        ids: list[int] = self.tokenizer(chat, add_special_tokens=not self._begun(chat))["input_ids"]
        return ids

    def reply(self, text: str) -> torch.Tensor:
        """Token ids (R,) int64 of a reply, with the end token."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor([*ids, self.eos_id], dtype=torch.long)

    def decode(self, ids: torch.Tensor | Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def token_at(self, ids: Sequence[int], offset: int) -> int:
        """Index of the token with character `offset` of `decode(ids)`, or `len(ids)` if the text is shorter."""
        # Bisection over the decoded prefixes works for any tokenizer; offset mappings exist for fast ones only.
        low, high = 0, len(ids)
        while low < high:
            middle = (low + high) // 2
            if len(self.decode(ids[: middle + 1])) > offset:
                high = middle
            else:
                low = middle + 1
        return low


@dataclass(frozen=True)
class Batch:
    """A padded batch. Each row holds a prompt and one or several replies to it.

    Attributes:
        inputs: arguments of the model's forward pass. Their attention mask (N, L) says which tokens are not padding;
            rows with several replies need that of `shared_prompts` in its place.
        prompt_length: P, the column at which replies start.
        reply_ids: token ids of the replies (B, R) int64.
        reply_mask: which of them are not padding (B, R) bool.
        parts: what each token belongs to (N, L) int64: `PROMPT`, `PADDING`, or the reply of this number, from 1.
        row: the row of each sample (B,) int64.
        slot: the index of each sample's reply among those of its row (B,) int64, from 0.
    """

    inputs: dict[str, torch.Tensor]
    prompt_length: int
    reply_ids: torch.Tensor
    reply_mask: torch.Tensor
    parts: torch.Tensor
    row: torch.Tensor
    slot: torch.Tensor


def collate(
    prompts: Sequence[Encoded],
    replies: Sequence[torch.Tensor],
    pad_id: int,
    device: torch.device,
    prompt_length: int = 0,
    rows: Sequence[Sequence[int]] | None = None,
) -> Batch:
    """Pad prompts on the left and replies on the right, and concatenate them.

    Args:
        prompts: B encoded prompts.
        replies: their replies, token ids (R,) int64. If all are empty, the batch holds prompts alone.
        pad_id: the padding token.
        device: where to put the tensors.
        prompt_length: pad prompts to at least this length.
        rows: the indices of each row's samples, which must have equal prompts; None gives each sample a row of its own.
    """
    rows = [[sample] for sample in range(len(prompts))] if rows is None else rows
    shown = [prompts[members[0]] for members in rows]
    longest = max(prompt_length, *(len(p.input_ids) for p in shown))
    width, slots = max(len(r) for r in replies), max(len(members) for members in rows)
    ids = torch.full((len(rows), longest + slots * width), pad_id, dtype=torch.long)
    parts, positions = torch.full_like(ids, PADDING), torch.zeros_like(ids)
    places = torch.zeros(2, len(prompts), dtype=torch.long)
    for row, (prompt, members) in enumerate(zip(shown, rows, strict=True)):
        # Count from the prompt's first token, so that a sample's positions do not depend on its padding.
        end = len(prompt.input_ids)
        # Each block: its part, first column, first position, and token ids.
        blocks = [(PROMPT, longest - end, 0, prompt.input_ids)]
        for slot, member in enumerate(members):
            blocks.append((slot + 1, longest + slot * width, end, replies[member]))
            places[0, member], places[1, member] = row, slot
        for part, column, position, tokens in blocks:
            filled = slice(column, column + len(tokens))
            ids[row, filled], parts[row, filled] = tokens, part
            positions[row, filled] = torch.arange(position, position + len(tokens))
    images = {name: _stack([p.images[name] for p in shown]) for name in shown[0].images}
    # Processors mark text and padding with 0.
    marks = {
        name: torch.stack([pad(p.marks[name], (longest - len(p.input_ids), slots * width)) for p in shown])
        for name in shown[0].marks
    }
    inputs = {"input_ids": ids, "attention_mask": (parts != PADDING).long(), "position_ids": positions}
    inputs = {name: to_device(tensor, device) for name, tensor in {**inputs, **marks, **images}.items()}
    parts, (row_B, slot_B) = to_device(parts, device), to_device(places, device)
    reply_ids, reply_parts = (
        tokens[:, longest:].unflatten(1, (slots, width))[row_B, slot_B] for tokens in (inputs["input_ids"], parts)
    )
    return Batch(inputs, longest, reply_ids, reply_parts != PADDING, parts, row_B, slot_B)


def _stack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Concatenate one image input of all samples along the first dimension, which counts images or patches.

    Samples whose other dimensions differ (number of tiles) are filled with zeros, as the models' processors do.
    """
    largest = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    return torch.cat([_filled(tensor, largest) for tensor in tensors])


def _filled(tensor: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    # `pad` takes the amounts before and after each dimension, from the last dimension to the second.
    missing = [want - have for have, want in zip(tensor.shape[1:], sizes, strict=True)]
    return pad(tensor, [amount for after in reversed(missing) for amount in (0, after)])
