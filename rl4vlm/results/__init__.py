"""The files that runs leave: written, read back, and made into tables."""
