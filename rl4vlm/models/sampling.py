"""The policy over tokens, and how a token is drawn from it.

The policy is softmax(logits / temperature) over all tokens but the suppressed special ones. Generation and scoring
share `policy_log_probs`, so a reply is re-scored under the distribution that it was sampled from (paper, section 4.2).

Legend: B batch, R reply length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def policy_log_probs(logits: torch.Tensor, suppressed: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probabilities (..., V) of the policy for logits (..., V), at least in float32; -inf for `suppressed` ids."""
    # Between 8 and 16 a bfloat16 number has steps of 1/16: too coarse for log-probabilities, which are summed later.
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    scaled[..., suppressed] = -torch.inf
    return torch.log_softmax(scaled, dim=-1)


def uniforms(rngs: Sequence[np.random.Generator], count: int) -> torch.Tensor:
    """Uniform numbers in [0, 1), (rows, count) float64; each row comes from its own generator."""
    return torch.from_numpy(np.stack([rng.random(count) for rng in rngs]))


def sample(logprobs: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Inverse-CDF sampling: the token whose cumulative-probability interval contains the row's uniform number.

    Args:
        logprobs: log-probabilities (B, V). A token of probability 0 is never chosen.
        uniform: numbers in [0, 1), (B, 1) float64.

    Returns:
        Token ids (B, 1) int64.
    """
    # Summed in float64, like u: rounding must not shift the borders of the intervals.
    cumulative = logprobs.exp().cumsum(-1, dtype=uniform.dtype)
    # Keep u below 1 after rounding, or searchsorted returns an index past the last token.
    below_one = uniform.clamp(max=1 - 2 * torch.finfo(uniform.dtype).eps)
    # The probabilities sum to 1 only up to rounding, so scale u to their actual sum.
    return torch.searchsorted(cumulative, below_one * cumulative[:, -1:], right=True)


class Sampler:
    """Samples the replies of a batch, token by token, and records log-probabilities.

    Transformers' own sampling uses one global generator for the batch, with which a row's reply would depend on the
    other rows.

    Args:
        uniform: one number per row and token (B, R) float64, drawn beforehand; None decodes greedily.
        suppressed: ids that are never sampled.
        temperature: of the policy.

    Attributes:
        logprobs: log-probabilities (B,) of the tokens drawn so far, as `policy_log_probs` computes them.
    """

    def __init__(self, uniform: torch.Tensor | None, suppressed: torch.Tensor, temperature: float) -> None:
        self.uniform, self.suppressed, self.temperature = uniform, suppressed, temperature
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """The next tokens (B,) int64, for logits (B, V)."""
        logprobs = policy_log_probs(logits, self.suppressed, self.temperature)
        if self.uniform is None:
            chosen = logprobs.argmax(-1, keepdim=True)
        else:
            token = len(self.logprobs)  # how many tokens were generated before this one
            chosen = sample(logprobs, self.uniform[:, token : token + 1])
        self.logprobs.append(logprobs.gather(-1, chosen).squeeze(-1))
        return chosen.squeeze(-1)
