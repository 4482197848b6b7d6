"""Settings of `rl4vlm gallery`."""

from __future__ import annotations

from rl4vlm.config.fields import Count, settings


@settings
class GallerySettings:
    """How much the gallery shows."""

    episodes: Count = 12
    """Episodes of each evaluation at most: the first ones won, lost and with a fallback."""
