"""What a batch starts for each attempt at a job: the command line in a process of its own."""

from __future__ import annotations

import sys

from dreamfusion.batch.attempt import attempt
from dreamfusion.cli.app import main

if __name__ == "__main__":
    sys.exit(attempt(sys.argv[1:], main))
