"""`python -m sextant`: the `sextant` command."""

import sys

from sextant._cli import main

sys.exit(main())
