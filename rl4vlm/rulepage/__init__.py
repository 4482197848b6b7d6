"""The page about the workflow's rules, docs/rules.md, made from the Snakefile itself, with a picture of how they hang
together."""
