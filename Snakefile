# The workflow is in workflow/, where the workflow catalog expects it. This file lets `snakemake` find it from the root.
include: "workflow/Snakefile"


# Snakemake ignores the default target of an included file, so name it again.
workflow.default_target = "all"
