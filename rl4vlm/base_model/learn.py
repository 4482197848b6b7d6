"""Builds a tiny LLaVA and pre-trains it to read images and prompts.

A large pre-trained model can read; a tiny new one cannot. The base model learns to answer one prompt with what an image
shows, such as its numbers and card ranks. For a task with `questions`, such as ALFWorld, it also learns to continue the
words of the prompt, with the rules and legal actions, and to answer those questions. It never sees a reply, the format
of replies, or an expert's action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from rl4vlm.base_model.samples import READ_PROMPT, Glimpse, corpus, glimpses
from rl4vlm.base_model.tiny import IMAGE, build
from rl4vlm.config.stages.pretrain import PretrainSettings
from rl4vlm.core.files import JsonLines
from rl4vlm.core.progress import progress
from rl4vlm.core.seeding import stream
from rl4vlm.envs.registration import make_env
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.models.encode import Encoded, Encoder, collate
from rl4vlm.models.loading import Backbone
from rl4vlm.models.reply_logits import reply_logits
from rl4vlm.models.value_head import ValueHead
from rl4vlm.results.provenance import METRICS
from rl4vlm.tasks.registry import get_task
from rl4vlm.training.accelerator import accelerator_on
from rl4vlm.training.distributed import Processes
from rl4vlm.training.optim import adamw_or_muon, check_finite, clear_gradients
from rl4vlm.training.stepped import SteppedState

LESSONS_AT_ONCE = 8
"""Lessons per forward pass."""


def build_base(settings: PretrainSettings) -> Backbone:
    """The untrained base model, with a tokenizer for the prompts and replies of `settings.pretrain_tasks`."""
    corpora = [
        corpus(name, settings.corpus, stream(settings.seed, "corpus", index), settings.task_env.get(name))
        for index, name in enumerate(settings.pretrain_tasks)
    ]
    phrases = dict.fromkeys(line for made in corpora for line in [READ_PROMPT, *made.constant_lines])
    texts = [text for made in corpora for text in made.texts]
    words = frozenset().union(*(made.words for made in corpora))
    return build(texts, settings.sizes, settings.seed, phrases, words)


@dataclass(kw_only=True)
class PretrainState(SteppedState):
    """A pre-training between two optimizer steps; `accelerator` has its device."""

    accelerator: Accelerator


def begin(settings: PretrainSettings) -> PretrainState:
    """Build the model and set up its pre-training, before the first step."""
    accelerator = accelerator_on(settings.device)
    backbone = build_base(settings)
    model = backbone.model.to(accelerator.device)
    optimizer = adamw_or_muon(
        model,
        model.device,
        lr=settings.learning_rate,
        muon_lr=settings.muon_learning_rate,
        weight_decay=settings.weight_decay,
    )
    return PretrainState(
        backbone=backbone,
        optimizer=optimizer,
        schedule=get_cosine_schedule_with_warmup(optimizer, int(settings.warmup * settings.steps), settings.steps),
        processes=Processes(accelerator, timeout=60.0),
        steps=settings.steps,
        accelerator=accelerator,
    )


def batches(settings: PretrainSettings) -> Iterator[list[Glimpse]]:
    """The samples of every step, endlessly; each sample's task is drawn with `settings.weights` (1 if not named)."""
    rng = stream(settings.seed, "glimpses")
    # A stream per task: how often one task is drawn does not change the states of another.
    sources = [
        glimpses(make_env(name, **settings.task_env.get(name, {})), stream(settings.seed, "states", i), get_task(name))
        for i, name in enumerate(settings.pretrain_tasks)
    ]
    shares = np.array([settings.weights.get(name, 1.0) for name in settings.pretrain_tasks])
    while True:
        picks = rng.choice(len(sources), size=settings.batch_size, p=shares / shares.sum())
        yield [next(sources[pick]) for pick in picks]


def train(
    state: PretrainState, settings: PretrainSettings, out: Path, on_step: Callable[[PretrainState], None]
) -> None:
    """Train to the end of the run, and write `metrics.jsonl`.

    Args:
        state: the run, new or resumed; it is changed in place.
        settings: the hyperparameters.
        out: the draft of the run's folder.
        on_step: called after every optimizer step, when the state is complete and may be saved.

    Raises:
        ValueError: the loss or a weight is not finite after a step. That step is not saved.
    """
    backbone = state.backbone
    encoder, model = Encoder(backbone.processor), backbone.model.train()
    # A resumed run draws the samples of its finished steps again, only to advance the random streams.
    left = islice(batches(settings), state.done, state.steps) if state.done < state.steps else ()
    with (
        JsonLines(out / METRICS, append=state.done > 0) as metrics,
        progress(state.steps, "base model", unit="batch") as bar,
    ):
        bar.update(state.done)
        for batch in left:
            loss = answer_loss(model, encoder, batch)
            lessons = [glimpse for glimpse in batch if glimpse.lesson]
            # Each loss is a mean over its own tokens, so the longer lessons do not outweigh the answers.
            if lessons:
                loss = loss + lesson_loss(model, encoder, lessons)
            clear_gradients(state.optimizer, model)
            loss.backward()
            if settings.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            state.optimizer.step()
            state.schedule.step()
            state.done += 1
            found = float(loss.detach())
            # Before on_step, which may save the state: a diverged run must not overwrite a good state.
            check_finite({"loss": found}, model, state.accelerator, f"base model, {state.position}")
            metrics.write({"step": state.done, "loss": found})
            bar.update(1)
            bar.describe(loss=found)
            on_step(state)
    model.eval()


def answer_loss(model: PreTrainedModel, encoder: Encoder, batch: Sequence[Glimpse]) -> torch.Tensor:
    """Mean cross-entropy over all answer tokens of a batch: a scalar tensor."""
    prompts = [encoder.prompt(glimpse.image, READ_PROMPT) for glimpse in batch]
    replies = [encoder.reply(glimpse.answer) for glimpse in batch]
    padded = collate(prompts, replies, encoder.pad_id, model.device)
    logits, _ = reply_logits(model, padded)
    return torch.nn.functional.cross_entropy(logits[padded.reply_mask], padded.reply_ids[padded.reply_mask])


def lesson_loss(model: PreTrainedModel, encoder: Encoder, batch: Sequence[Glimpse]) -> torch.Tensor:
    """Mean cross-entropy over all tokens after the images of a batch's lessons: words, questions and answers."""
    # Sorted by length and run a few at a time: otherwise half of the tokens would be padding.
    lessons = sorted((_after_image(encoder, glimpse) for glimpse in batch), key=lambda lesson: len(lesson[1]))
    total, count = torch.zeros((), device=model.device), 0
    for start in range(0, len(lessons), LESSONS_AT_ONCE):
        images, texts = zip(*lessons[start : start + LESSONS_AT_ONCE], strict=True)
        padded = collate(images, texts, encoder.pad_id, model.device)
        logits, _ = reply_logits(model, padded)
        words = padded.reply_ids[padded.reply_mask]
        total = total + torch.nn.functional.cross_entropy(logits[padded.reply_mask], words, reduction="sum")
        count += len(words)
    return total / count


def _after_image(encoder: Encoder, glimpse: Glimpse) -> tuple[Encoded, torch.Tensor]:
    """A lesson, cut after its image: the prompt up to there, and the token ids (R,) that follow."""
    assert glimpse.lesson is not None
    start = encoder.prompt(glimpse.image, glimpse.lesson.text)
    answers = "\n".join(f"{question} {answer}." for question, answer in glimpse.lesson.asked)
    image = encoder.tokenizer.convert_tokens_to_ids(IMAGE)
    # Only what follows the image has a loss: the image's own tokens are placeholders.
    cut = int((start.input_ids == image).nonzero()[-1]) + 1
    return replace(start, input_ids=start.input_ids[:cut]), torch.cat([start.input_ids[cut:], encoder.reply(answers)])


def perception_accuracy(backbone: Backbone, task_name: str, settings: PretrainSettings) -> dict[str, float]:
    """By field, the fraction of `settings.probe` new states in which it is read correctly, with greedy decoding."""
    reader = ActorCritic(
        backbone,
        # A critic is needed to build the class; its values are not used.
        ValueHead(backbone.model.get_output_embeddings().in_features, (8,)),
        temperature=0.0,
        max_new_tokens=32,
    ).to(backbone.model.device)
    rng = stream(settings.seed, "probe")
    env = make_env(task_name, **settings.task_env.get(task_name, {}))
    states = [g for _, g in zip(range(settings.probe), glimpses(env, rng, get_task(task_name)), strict=False)]
    answers: list[str] = []
    for start in range(0, len(states), settings.batch_size):
        batch = states[start : start + settings.batch_size]
        prompts = [reader.encoder.prompt(glimpse.image, READ_PROMPT) for glimpse in batch]
        # Greedy decoding draws no numbers, so the generator given here is not used.
        answers += [reader.encoder.decode(reply.ids) for reply in reader.generate(prompts, [rng] * len(batch))]
    correct = dict.fromkeys(states[0].perception, 0)
    for glimpse, answer in zip(states, answers, strict=True):
        # An answer may have too few fields: the missing ones count as wrong.
        parts = answer.split("; ")
        for (name, truth), said in zip(glimpse.perception.items(), [*parts, *[""] * len(correct)], strict=False):
            correct[name] += said == truth
    return {name: count / len(states) for name, count in correct.items()}
