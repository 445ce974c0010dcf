"""``python -m cluster`` is ``gridpact``: how the launcher starts its children without searching for a script."""

from __future__ import annotations

import sys

from cluster.cli import main

sys.exit(main())
