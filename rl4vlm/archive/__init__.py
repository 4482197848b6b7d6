"""Results as one file that a reader can check: unpacked, every table and figure is rebuilt from the packed metrics."""
