"""Rewrite the golden bytes on purpose: ``python -m tests.vectors``. Look at the difference before you commit it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.vectors.cases import FILES

if __name__ == "__main__":
    for name, make in FILES.items():
        path = Path(__file__).parent / name
        path.write_text(json.dumps(make(), indent=1) + "\n", encoding="utf-8")
        print(f"wrote {path.name}")
