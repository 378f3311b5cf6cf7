"""The entry point of attempts of a batch: runs the command line in a separate process."""

import sys

from dreamfusion.batch.attempt import attempt
from dreamfusion.cli.app import main

if __name__ == "__main__":
    sys.exit(attempt(sys.argv[1:], main))
