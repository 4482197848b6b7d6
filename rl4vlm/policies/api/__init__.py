"""Models behind an OpenAI-compatible endpoint, as policies (docs/api-models.md)."""
