"""From (picture, prompt, reply) to the tensors a vision-language model takes, and back from token ids to text.

Legend: B batch, P prompt length after left padding, R reply length after right padding.
Prompts are padded on the left and replies on the right, so that every reply starts at column P of its batch: what is
generated and what is re-scored see the same positions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jinja2 import TemplateError
from PIL import Image
from transformers import ProcessorMixin

IGNORED_LABEL = -100


@dataclass(frozen=True)
class Encoded:
    """One encoded prompt: token ids (P,) int64, picture tokens included, and the model's picture inputs.

    `marks` are further inputs (P,) that say something of each token, such as which of them stand for a picture.
    """

    input_ids: torch.Tensor
    images: Mapping[str, torch.Tensor]
    marks: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Encoder:
    """Encodes prompts with a processor's own chat template; used by SFT, PPO and evaluation alike.

    The inputs of the last `cache_size` distinct (picture, prompt) pairs are kept: games show the same state often.
    """

    def __init__(self, processor: ProcessorMixin, cache_size: int = 512) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.eos_id = self._end_of_turn()
        self.pad_id = int(self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.eos_id)
        self._cache: OrderedDict[tuple[bytes, str], Encoded] = OrderedDict()
        self._cache_size = cache_size

    def _special_ids(self) -> set[int]:
        added = self.tokenizer.added_tokens_decoder
        return {i for i, token in added.items() if token.special} | set(self.tokenizer.all_special_ids)

    def _end_of_turn(self) -> int:
        """The token that ends a reply: the special one that the chat template writes after it, as in Gemma's
        `<end_of_turn>`; where it writes none, the tokenizer's end of sequence."""
        said = "reply"
        turns = [("user", [{"type": "text", "text": ""}]), ("assistant", [{"type": "text", "text": said}])]
        try:
            chat = self.processor.apply_chat_template([{"role": role, "content": parts} for role, parts in turns])
        except TemplateError:
            chat = ""
        _, found, after = chat.rpartition(said)
        special = self._special_ids()
        ids = self.tokenizer(after, add_special_tokens=False)["input_ids"] if found else []
        return int(next((i for i in ids if i in special), self.tokenizer.eos_token_id))

    def suppressed_ids(self) -> torch.Tensor:
        """Ids (S,) that a reply never holds: every special token but the one that ends it."""
        return torch.tensor(sorted(self._special_ids() - {self.eos_id}), dtype=torch.long)

    def chat(self, prompt: str) -> str:
        """The chat template's text for one user turn of a picture and `prompt`, up to where the reply begins."""
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    def prompt(self, image: np.ndarray, prompt: str) -> Encoded:
        """Encode one picture (H, W, 3) uint8 with its prompt."""
        key = (image.tobytes(), prompt)
        found = self._cache.get(key)
        if found is None:
            found = self._encode(image, prompt)
            self._cache[key] = found
            if len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(key)
        return found

    def _encode(self, image: np.ndarray, prompt: str) -> Encoded:
        chat = self.chat(prompt)
        # As `apply_chat_template` does: a template that writes the first token itself must not get a second one.
        begun = self.tokenizer.bos_token is not None and chat.startswith(self.tokenizer.bos_token)
        inputs = self.processor(
            text=[chat], images=[Image.fromarray(image)], return_tensors="pt", add_special_tokens=not begun
        )
        ids = inputs.pop("input_ids")
        inputs.pop("attention_mask", None)
        marks = {name: tensor[0] for name, tensor in inputs.items() if tensor.shape == ids.shape}
        images = {name: tensor for name, tensor in inputs.items() if name not in marks}
        return Encoded(ids[0], images, marks)

    def reply(self, text: str) -> torch.Tensor:
        """Token ids (R,) of a reply, closed by the token that ends it."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor([*ids, self.eos_id], dtype=torch.long)

    def decode(self, ids: torch.Tensor | Sequence[int]) -> str:
        """The text of reply token ids, special tokens left out."""
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def token_at(self, ids: Sequence[int], offset: int) -> int:
        """Index of the token that holds character `offset` of `decode(ids)`; `len(ids)` when the text ends before it.

        Found by bisection over decoded prefixes, which works for any tokenizer: nothing is assumed of token ids.
        """
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
    """A padded batch: `inputs` for the model's forward pass; P and R as in the legend above.

    `reply_mask` (B, R) bool marks the reply's real tokens; `reply_ids` (B, R) int64.
    """

    inputs: dict[str, torch.Tensor]
    prompt_length: int
    reply_ids: torch.Tensor
    reply_mask: torch.Tensor


def collate(
    prompts: Sequence[Encoded],
    replies: Sequence[torch.Tensor],
    pad_id: int,
    device: torch.device,
    prompt_length: int = 0,
) -> Batch:
    """Pad prompts left and replies right, and lay them side by side; `replies` of length 0 give a prompt-only batch.

    P is at least `prompt_length`.
    """
    longest = max(prompt_length, *(len(p.input_ids) for p in prompts))
    width = max(len(r) for r in replies)
    ids = torch.full((len(prompts), longest + width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        start, end = longest - len(prompt.input_ids), longest + len(reply)
        ids[row, start:longest] = prompt.input_ids
        ids[row, longest:end] = reply
        mask[row, start:end] = 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    images = {name: _stack([p.images[name] for p in prompts]) for name in prompts[0].images}
    # 0 is what processors write at text and padding.
    marks = {name: torch.stack([_between(p.marks[name], longest, width) for p in prompts]) for name in prompts[0].marks}
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **marks, **images}
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    return Batch(inputs, longest, inputs["input_ids"][:, longest:], inputs["attention_mask"][:, longest:].bool())


def _stack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """One picture input of a batch: laid end to end along the first dimension, whatever that counts (pictures, or the
    patches of all of them). Where others differ (tiles of a picture), zeros fill up, as the models' processors do."""
    largest = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    return torch.cat([_filled(tensor, largest) for tensor in tensors])


def _filled(tensor: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    if list(tensor.shape[1:]) == list(sizes):
        return tensor
    full = tensor.new_zeros(tensor.shape[0], *sizes)
    full[(slice(None), *(slice(length) for length in tensor.shape[1:]))] = tensor
    return full


def _between(marks: torch.Tensor, longest: int, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(marks, (longest - len(marks), width))
