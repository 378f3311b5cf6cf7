"""What a batch starts for each attempt at a job: the command line in a process of its own."""

from __future__ import annotations

import sys

from dreamfusion.cli.app import main
from dreamfusion.shelf.batch.attempt import attempt

if __name__ == "__main__":
    sys.exit(attempt(sys.argv[1:], main))
