"""`python -m dreamfusion`."""

import sys

from dreamfusion.cli.app import main

sys.exit(main())
