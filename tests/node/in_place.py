"""A crash leaves a vote log where it is; tests that play one with a copy say so here. (Any other copy begins anew.)"""

from __future__ import annotations

from pathlib import Path

from node import birth_mark
from node.key_value import open_database
from node.vote_log import BIRTH_KEY, BIRTH_MARK


def leave_in_place(votes: Path) -> None:
    """Let a copied vote log pass for the one that it is a copy of."""
    database = open_database(votes)
    database.write([(BIRTH_KEY, birth_mark.lay(votes / BIRTH_MARK))], sync=True)
    database.close()
