"""Replies from vLLM, with a copy of the weights in this process (docs/throughput.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from weakref import finalize

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel

from rl4vlm.models.encode import Encoded, Encoder
from rl4vlm.models.hub_names import hub_weights


def check_vllm() -> None:
    """Raise ValueError if vLLM is not installed."""
    if find_spec("vllm") is None:
        raise ValueError("engine 'vllm' needs vllm, which is not installed: docs/install.md says how (vLLM)")


def check_vllm_on(device: torch.device) -> None:
    """Raise ValueError if vLLM is not installed, or if the model is on another GPU than the first."""
    check_vllm()
    if device.index:
        raise ValueError(
            f"engine vllm takes the first GPU, not {device}: run `python -m rl4vlm.core.gpus 1 rl4vlm ...`"
        )


class VLLMEngine:
    """Samples replies from the policy that `ActorCritic.generate` samples from, with other random numbers.

    Its weights are random until the first `update`.

    Args:
        model: the backbone whose family, sizes and dtype the engine gets.
        encoder: its encoder.
        suppressed: ids that are never sampled (S,) int64.
        temperature: of sampling; 0 is greedy.
        max_new_tokens: the longest reply, in tokens.
        cache_gb: memory for keys and values, in GB.

    Raises:
        ValueError: vLLM is not installed, or does not know the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        encoder: Encoder,
        suppressed: torch.Tensor,
        *,
        temperature: float,
        max_new_tokens: int,
        cache_gb: float,
    ) -> None:
        check_vllm()
        # vLLM reads these when it is imported. It must run in this process, to take weights from it.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # on a CPU it warns at every image
        from vllm import LLM, SamplingParams

        self.encoder = encoder
        allowed = torch.ones(model.get_output_embeddings().out_features, dtype=torch.bool)
        allowed[suppressed.cpu()] = False
        self._sampling = SamplingParams(
            temperature=temperature,
            max_tokens=max_new_tokens,
            logprobs=0,  # of the sampled token alone
            allowed_token_ids=allowed.nonzero().flatten().tolist(),
            stop_token_ids=[encoder.eos_id],
            detokenize=False,
        )
        folder = TemporaryDirectory(prefix="rl4vlm-vllm-")
        finalize(self, folder.cleanup)
        config = deepcopy(model.config)
        config.architectures = [type(model).__name__]
        config.save_pretrained(folder.name)
        encoder.processor.save_pretrained(folder.name)
        on_cpu = model.device.type == "cpu"
        self._llm = LLM(
            folder.name,
            dtype=model.dtype,
            load_format="dummy",  # the weights come from `update`
            hf_overrides={"head_dtype": "float32"},  # as in `output_head`
            logprobs_mode="processed_logprobs",  # of the distribution that tokens are drawn from
            generation_config="vllm",
            enforce_eager=on_cpu,  # compiling takes minutes there
            # If a prompt is split over two steps, vLLM rewinds the reply's generator, which torch cannot do on a CPU.
            enable_chunked_prefill=not on_cpu,
            limit_mm_per_prompt={"image": 1},
            max_model_len=-1,  # as long as the cache allows
            kv_cache_memory_bytes=int(cache_gb * 1e9),
            # At its start vLLM compares this share of the GPU with what is free, and would refuse the default of 0.92
            # beside the model that learns. The cache has the size above all the same.
            gpu_memory_utilization=0.01,
        )

    @torch.no_grad()
    def update(self, model: PreTrainedModel) -> None:
        """Copy the model's weights, with its adapters merged."""
        self.reload(hub_weights(model))

    def reload(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Load weights by their names on the hub, and empty the caches that the old ones filled."""
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights.items())})
        self._llm.reset_prefix_cache()
        self._llm.reset_mm_cache()
        self._llm.llm_engine.reset_encoder_cache()

    def generate(
        self,
        images: Sequence[np.ndarray],
        texts: Sequence[str],
        prompts: Sequence[Encoded],
        rngs: Sequence[np.random.Generator],
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Sample one reply per prompt.

        Args:
            images: the prompts' images (H, W, 3) uint8.
            texts: their texts.
            prompts: images and texts, encoded for the trained model.
            rngs: one generator per prompt; vLLM's seed is drawn from it.

        Returns:
            The token ids (R,) int64 of each reply and their log-probabilities (R,) float32.

        Raises:
            ValueError: vLLM encodes a prompt as other tokens than the trained model gets.
        """
        asked, sampling = [], []
        for image, text, rng in zip(images, texts, rngs, strict=True):
            asked.append(
                {
                    "prompt_token_ids": self.encoder.unexpanded(text),
                    "multi_modal_data": {"image": Image.fromarray(image)},
                }
            )
            sampling.append(self._sampling.clone())
            sampling[-1].seed = int(rng.integers(2**62))
        replies = []
        for prompt, answer in zip(prompts, self._llm.generate(asked, sampling, use_tqdm=False), strict=True):
            if answer.prompt_token_ids != prompt.input_ids.tolist():
                raise ValueError(
                    f"vLLM encodes a prompt as {len(answer.prompt_token_ids)} tokens, which differ from the "
                    f"{len(prompt.input_ids)} of transformers: use engine 'transformers'"
                )
            (reply,) = answer.outputs
            ids = list(reply.token_ids)
            logprobs = [step[token].logprob for step, token in zip(reply.logprobs, ids, strict=True)]
            replies.append((torch.tensor(ids), torch.tensor(logprobs)))
        return replies
