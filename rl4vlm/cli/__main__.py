"""`python -m rl4vlm.cli`: the command line where the package is not installed, as in an archive of results."""

import sys

from rl4vlm.cli import main

if __name__ == "__main__":
    sys.exit(main())
