"""The settings of each stage: one module per stage, so that an edit of one makes no other stage stale."""
