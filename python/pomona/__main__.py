"""``python -m pomona`` is the command ``pomona``."""

import sys

from .cli import main

sys.exit(main())
