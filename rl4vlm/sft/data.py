"""Demonstrations in LLaVA's JSON format: steps of the solver, written and read back (paper, section 4.1).

A folder of demonstrations has `data.json` (a list of `id`, `image`, `conversations`), `images/` (one PNG per distinct
image, named by its content), `manifest.json` and `run.json`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rl4vlm.config.stages.sft_data import SFTDataSettings
from rl4vlm.core.env_folders import env_folders
from rl4vlm.core.files import atomic_write_text, jsonable, parse_json, read_text, sha256_of
from rl4vlm.core.output import stage_output
from rl4vlm.core.progress import progress
from rl4vlm.core.seeding import stream
from rl4vlm.core.types import Step, Style
from rl4vlm.envs.registration import make_env
from rl4vlm.interaction.play import Slot, advance
from rl4vlm.interaction.prompt import override_parts
from rl4vlm.policies.scripted import SolverPolicy
from rl4vlm.results.provenance import DATA, MANIFEST, inputs_now, write_run_record
from rl4vlm.sft.wording import Rewording
from rl4vlm.tasks.registry import get_task
from rl4vlm.training.increments import increments
from rl4vlm.training.store import StateFolder, relevant

STAGE = "sft_data"
IMAGES = "images"
IMAGE_TOKEN = "<image>"
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""The formats that are read. For some others, such as EPS, Pillow would start another program."""
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""First bytes of the pointer that stands in a checkout in place of a file that Git LFS has not fetched."""
MAX_STEPS_WITHOUT_SAMPLE = 10_000
"""After this many steps in a row without a solvable state, the task is assumed to have none."""


@dataclass(frozen=True)
class Demonstration:
    """One sample: the path of its image, the prompt without image token, and the reply to imitate."""

    id: str
    image: Path
    prompt: str
    reply: str


def run(
    *, task: str, style: Style, out: Path, settings: SFTDataSettings, resume_dir: StateFolder | None = None
) -> None:
    """Write a folder of demonstrations.

    Args:
        task: the game.
        style: how replies are written.
        out: folder to write. It appears when it is complete; earlier demonstrations there are replaced.
        settings: how many samples, and how they are made.
        resume_dir: where the state is saved, between two episodes; a killed run continues from there, and writes the
            same demonstrations as one without interruption. None saves no state.

    Raises:
        ValueError: `out` holds something other than demonstrations.
    """
    started = time.monotonic()
    actions: Counter[str] = Counter()
    entries: list[dict[str, Any]] = []
    saved = 0

    def key(states: StateFolder) -> dict[str, Any]:
        folders = inputs_now(env_folders(settings.env))
        return states.key(folders, stage=STAGE, task=task, style=style, settings=relevant(settings))

    def new() -> tuple[dict[str, Any], list[Path]]:
        nonlocal saved
        images = {entry["image"] for entry in entries[saved:]} - {entry["image"] for entry in entries[:saved]}
        content = {"entries": entries[saved:], "actions": actions, "rest": player.state(), "seconds": seconds()}
        saved = len(entries)
        return content, [folder / image for image in sorted(images)]

    def seconds() -> float:
        return time.monotonic() - started

    with (
        increments(resume_dir, key, settings.save_minutes) as kept,
        stage_output(out, [STAGE]) as folder,
        progress(settings.samples, f"demonstrations {task} {style}", unit="sample") as bar,
        closing(Demonstrations(task, style, settings)) as player,
    ):
        (folder / IMAGES).mkdir()
        states = kept.load()
        for place, content in states:
            entries += content["entries"]
            for image in {entry["image"] for entry in content["entries"] if not (folder / entry["image"]).exists()}:
                shutil.copyfile(place / Path(image).name, folder / image)
        if states:
            player.load_state(content["rest"])
            actions.update(content["actions"])
            started -= content["seconds"]
            saved = len(entries)
            bar.update(saved)
        # The range comes first: zip would otherwise play one more step before it ends.
        for number, step in zip(range(saved, settings.samples), player.steps(), strict=False):
            name = save_image(folder, step.request.image)
            entries.append(llava_entry(f"{task}-{style}-{number}", name, step.request.prompt, step.reply.text))
            actions[step.action] += 1
            bar.update(1)
            if step.episode:
                kept.on_step(f"sample {len(entries)} of {settings.samples}", new)
        atomic_write_text(folder / DATA, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
        manifest = {
            "task": task,
            "style": style,
            "samples": len(entries),
            "pictures": len({entry["image"] for entry in entries}),
            "actions": dict(sorted(actions.items())),
            "sha256": sha256_of(folder / DATA),
            "settings": settings,
        }
        atomic_write_text(folder / MANIFEST, json.dumps(jsonable(manifest), indent=2, ensure_ascii=False) + "\n")
        write_run_record(
            folder,
            stage=STAGE,
            settings={"task": task, "style": style, **vars(settings)},
            seeds={"sft_data": settings.seed},
            inputs={},
            seconds=seconds(),
        )


class Demonstrations:
    """An endless sequence of demonstrations, played by the solver.

    Args:
        task_name: the game.
        style: how replies are written.
        settings: how it plays.
    """

    def __init__(self, task_name: str, style: Style, settings: SFTDataSettings) -> None:
        task = get_task(task_name)
        self._task_name = task_name
        # The demonstrator may differ from the player in options of the environment, such as which expert is asked.
        self._env = make_env(task_name, **{**settings.env, **settings.demonstrator})
        parts = override_parts(task.prompt, settings.prompt)
        self._slot = Slot(self._env, task, style, parts, settings.seed)
        # A stream of its own, so that states and actions are the same as with `wording: fixed`.
        self._words = stream(settings.seed, "wording")
        varied = settings.wording == "varied" and style is Style.COT
        self._policy = SolverPolicy(style, settings.action_noise, Rewording(task_name, self._words) if varied else None)
        self._skipped = 0

    def steps(self) -> Iterator[Step]:
        """Yield the solver's steps, except those in states that cannot be won, such as an unsolvable Points24 hand.

        Raises:
            ValueError: `MAX_STEPS_WITHOUT_SAMPLE` states in a row cannot be won.
        """
        while self._skipped < MAX_STEPS_WITHOUT_SAMPLE:
            (step,) = advance([self._slot], self._policy)
            advised = step.reply.expert_action
            if advised is not None and advised.solvable:
                self._skipped = 0
                yield step
            else:
                self._skipped += 1
        raise ValueError(f"task {self._task_name!r} had no solvable state in {self._skipped} steps in a row")

    def state(self) -> dict[str, Any]:
        """What to save between two steps to continue from there, as data that JSON can hold."""
        return {"slot": self._slot.state(), "words": self._words.bit_generator.state}

    def load_state(self, saved: Mapping[str, Any]) -> None:
        """Continue from a saved `state`. Call this before `steps`.

        The reset of the saved episode is repeated. If the environment shows something else, as a simulator may, another
        episode begins, with a note.
        """
        self._slot.load_or_abandon(saved["slot"], "the environment")
        self._words.bit_generator.state = saved["words"]

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def save_image(folder: Path, image: np.ndarray) -> str:
    """Save an image (300, 300, 3) uint8 below `folder`, unless it is there. Returns its path relative to `folder`."""
    name = f"{IMAGES}/{hashlib.sha256(image.tobytes()).hexdigest()[:20]}.png"
    if not (folder / name).exists():
        # Level 1: speed matters more here than the size of the files.
        Image.fromarray(image).save(folder / name, compress_level=1)
    return name


def llava_entry(sample_id: str, image: str, prompt: str, reply: str) -> dict[str, Any]:
    """One sample in LLaVA's format."""
    conversation = [{"from": "human", "value": f"{IMAGE_TOKEN}\n{prompt}"}, {"from": "gpt", "value": reply}]
    return {"id": sample_id, "image": image, "conversations": conversation}


def load_samples(source: Path) -> list[Demonstration]:
    """Read demonstrations.

    Args:
        source: a LLaVA JSON file, or a folder with one. Image paths in it are relative to its folder.

    Raises:
        ValueError: the file, a sample in it or its image is not valid; the message names file and sample.
    """
    file = _data_file(source)
    if _is_pointer(file):
        raise ValueError(f"{file} is a pointer of Git LFS and not the file itself: run git lfs pull")
    entries = parse_json(read_text(file), file)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{file} is not a list of samples")
    samples = [_demonstration(file, number, entry) for number, entry in enumerate(entries)]
    for image, sample in {sample.image: sample for sample in samples}.items():
        if problem := _image_problem(image):
            raise ValueError(f"{file}, sample {sample.id!r}: image {image} {problem}")
    return samples


def check_special_tokens(source: Path, samples: Sequence[Demonstration], tokens: Iterable[str]) -> None:
    """Check that no text of a sample holds a special token of the model's tokenizer, such as its image or end token.

    Raises:
        ValueError: one does; the message names source, sample and token.
    """
    special = re.compile("|".join(map(re.escape, tokens)) or "(?!)")
    for sample in samples:
        for turn, text in (("prompt", sample.prompt), ("reply", sample.reply)):
            if found := special.search(text):
                raise ValueError(f"{source}, sample {sample.id!r}: the {turn} holds {found[0]!r}, a token of the model")


def _data_file(source: Path) -> Path:
    if source.is_file():
        return source
    if not source.is_dir():
        raise ValueError(f"no demonstrations at {source}: there is no such file or folder")
    if (source / DATA).is_file():
        return source / DATA
    # Published demonstrations have file names of their own.
    others = [path for path in sorted(source.glob("*.json")) if path.name not in (MANIFEST, "run.json")]
    if len(others) != 1:
        raise ValueError(f"{source} holds no {DATA} and {len(others)} other JSON files; name the one to read")
    return others[0]


def _demonstration(file: Path, number: int, entry: Any) -> Demonstration:
    name = str(entry.get("id", f"number {number}")) if isinstance(entry, Mapping) else f"number {number}"

    def wrong(what: str) -> ValueError:
        return ValueError(f"{file}, sample {name!r}: {what}")

    if not isinstance(entry, Mapping):
        raise wrong("not an object")
    image, turns = entry.get("image"), entry.get("conversations")
    if not isinstance(image, str):
        raise wrong("no `image` path")
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise wrong("`conversations` is not a list of turns")
    if [turn.get("from") for turn in turns] != ["human", "gpt"]:
        raise wrong("`conversations` is not one turn from `human` and one from `gpt`")
    prompt, reply = (turn.get("value") for turn in turns)
    if not isinstance(prompt, str) or not isinstance(reply, str) or not reply.strip():
        raise wrong("a turn has no text as its `value`")
    if prompt.count(IMAGE_TOKEN) != 1:
        raise wrong(f"the human turn has {prompt.count(IMAGE_TOKEN)} {IMAGE_TOKEN} tokens, not one")
    if IMAGE_TOKEN in reply:
        raise wrong(f"the reply holds {IMAGE_TOKEN}")
    try:
        "".join((name, image, prompt, reply)).encode("utf-8")
    except UnicodeEncodeError as error:
        raise wrong(f"its text holds {error.object[error.start]!r}, half of a surrogate pair") from error
    return Demonstration(name, file.parent / image, prompt.replace(IMAGE_TOKEN, "").strip("\n"), reply)


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def _image_problem(path: Path) -> str | None:
    """What is wrong with an image, None if nothing is."""
    try:
        if _is_pointer(path):
            return "is a pointer of Git LFS and not the file itself: run git lfs pull"
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            # The checksums of a PNG tell without decoding it, in a tenth of the time.
            image.verify() if image.format == "PNG" else image.load()
    except (FileNotFoundError, IsADirectoryError):
        return "does not exist"
    except Exception as error:  # what Pillow raises for a broken file depends on its format
        return f"cannot be read: {error}"
    return None
