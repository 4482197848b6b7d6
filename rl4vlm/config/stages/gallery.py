"""Settings of `rl4vlm gallery`."""

from __future__ import annotations

from rl4vlm.config.fields import Count, settings


@settings
class GallerySettings:
    """How much the gallery shows."""

    episodes: Count = 12
    """Largest number of episodes per evaluation: the first ones that were won, that were lost, and that had a
    fallback."""
