"""`python -m dreamfusion`."""

import sys

from dreamfusion.cli import main

sys.exit(main())
