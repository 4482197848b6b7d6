"""The nearest right spelling of a wrong name, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def did_you_mean(name: Any, known: Iterable[Any], otherwise: str | None = None) -> str:
    """The known names that are near to a wrong one. If none is near: all of them, or `otherwise`."""
    known = [str(item) for item in known]
    near = difflib.get_close_matches(str(name), known)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known: {', '.join(known) or 'none'}" if otherwise is None else otherwise
