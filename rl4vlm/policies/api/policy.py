"""Plays with a model behind an endpoint. Sends several requests at once and stores every answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl4vlm.config.settings import build_settings
from rl4vlm.config.stages.api import ApiSettings
from rl4vlm.core.types import Reply, Request
from rl4vlm.policies.api.budget import Budget
from rl4vlm.policies.api.cache import ReplyCache
from rl4vlm.policies.api.client import ApiClient, ApiError
from rl4vlm.policies.api.messages import Answer, Kind, question_key, request_body


@dataclass(frozen=True)
class Question:
    """A request's body, the number of its repetition, and its name in the cache."""

    body: Mapping[str, Any]
    repetition: int
    key: str


class ApiPolicy:
    """Answers requests through an endpoint.

    If replies are sampled, each request draws a repetition number from its own random stream. A rerun of an episode
    draws the same number and finds the answer in the cache. Another episode in the same state draws another number and
    gets a new sample. At temperature 0 all repetitions would be equal, so each question is asked once.
    """

    def __init__(
        self,
        name: str,
        settings: ApiSettings,
        *,
        temperature: float,
        max_new_tokens: int,
        endpoint: str | None = None,
    ) -> None:
        """`endpoint` names the endpoint in the cache; its address if not given."""
        self.name = name
        self.settings = settings
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.endpoint = endpoint or settings.base_url
        self.client = ApiClient(name, settings)
        self.cache = ReplyCache(Path(settings.cache))
        self.budget = Budget(settings, max_new_tokens)
        self.kinds: Counter[str] = Counter()
        self._known: dict[str, Answer] = {}

    @classmethod
    def load(
        cls, name: str, *, temperature: float, max_new_tokens: int, api: Mapping[str, Any], **_: object
    ) -> ApiPolicy:
        """Create a policy. `api` holds the fields of `ApiSettings`. Raises ValueError if one is invalid."""
        settings = build_settings(ApiSettings, api)
        return cls(name, settings, temperature=temperature, max_new_tokens=max_new_tokens)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer a batch.

        Raises:
            PlayStopped: the spending cap is reached. Answers to requests already sent are stored.
            ApiError: the endpoint does not answer. Answers to requests already sent are stored.
        """
        questions = [self._question(request) for request in requests]
        self._learn({question.key: question for question in questions if question.key not in self._known})
        given = [self._known[question.key] for question in questions]
        self.kinds.update(answer.kind for answer in given)
        return [Reply(answer.text, _numbers(answer)) for answer in given]

    def affords(self, replies: int) -> bool:
        """Whether the spending cap allows this many more replies; see `Budget.affords`."""
        return self.budget.affords(replies)

    def check_replies(self) -> None:
        """Raise ApiError if replies were given and none has text, unless all were refusals: that measures nothing."""
        silent = not (self.kinds[Kind.OK] or self.kinds[Kind.CUT_OFF])
        if silent and self.kinds and set(self.kinds) != {Kind.REFUSAL}:
            counted = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items()))
            raise ApiError(
                f"API model {self.name!r} at {self.endpoint} gave no reply with text ({counted}): a model that thinks "
                "first may need a larger max_new_tokens"
            )

    def totals(self) -> dict[str, Any]:
        """Totals so far. `replies` counts steps by kind of answer; all other numbers count distinct requests."""
        return {
            "model": self.settings.model,
            "endpoint": self.endpoint,
            "replies": dict(sorted(self.kinds.items())),
            **self.budget.totals(),
        }

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _question(self, request: Request) -> Question:
        body = request_body(
            request.image,
            request.prompt,
            self.settings,
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
        )
        sampled = body.get("temperature") != 0
        repetition = int(request.rng.integers(2**53)) if sampled else 0
        return Question(body, repetition, question_key(self.endpoint, body, repetition))

    def _learn(self, questions: Mapping[str, Question]) -> None:
        """Get the answers: first those in the cache, in order, then the others, several at a time."""
        for key in questions:
            stored = self.cache.get(key)
            answer = self.client.read(stored) if stored else None
            # Ask again if a stored response is malformed. An earlier version stored such ones, and a response that
            # counted as a refusal may be malformed under the settings of today.
            if stored and answer and answer.kind is not Kind.MALFORMED:
                self.budget.charge(answer, stored.retries)
                self._known[key] = answer
        new = [question for key, question in questions.items() if key not in self._known]
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            asked = {question.key: pool.submit(self._ask, question) for question in new}
            try:
                wait(asked.values(), return_when=FIRST_EXCEPTION)
            except BaseException:  # such as Ctrl-C: answers that are paid for are still stored, nothing more is sent
                self.client.stop()
                raise
            finally:
                pool.shutdown(cancel_futures=True)
        for failed in [future.exception() for future in asked.values() if not future.cancelled()]:
            if failed is not None:
                raise failed
        self._known.update({key: future.result() for key, future in asked.items()})

    def _ask(self, question: Question) -> Answer:
        reserved = self.budget.reserve()
        try:
            stored = self.client.ask(question.body)
        except BaseException:
            self.budget.release(reserved)
            raise
        self.cache.put(question.key, self.endpoint, question.body, question.repetition, stored)
        answer = self.client.read(stored)
        self.budget.charge(answer, stored.retries, reserved)
        return answer


def _numbers(answer: Answer) -> dict[str, float]:
    return {} if answer.output_tokens is None else {"tokens": float(answer.output_tokens)}
