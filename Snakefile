# The workflow lives in workflow/, where its catalog looks for it; this file lets `snakemake` find it in the root.
include: "workflow/Snakefile"


# What an included file calls its default target does not count, so it is said again.
workflow.default_target = "all"
