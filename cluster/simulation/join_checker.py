"""Checks that nobody stays behind in a view that f + 1 honest others have left: one of these may have good cause, and all must meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.simulation.settings import Violation
from consensus.messages import ViewChangeMessage

if TYPE_CHECKING:
    from cluster.simulation.node import Node


class JoinChecker:
    """Remembers which view-changes of honest replicas every running node got.

    A node's memory goes with its power, so does what is remembered of it here.
    """

    def __init__(self) -> None:
        self._wanted: dict[int, tuple[object, int, dict[str, int]]] = {}

    def stepped(self, node: Node, message: ViewChangeMessage, is_honest: bool) -> None:
        """A node took a view-change.

        Args:
            is_honest: whether its sender is.
        """
        process, vote = node.process, message.vote
        if process is None or not is_honest or not node.honest:
            return
        replica, committee = process.replica, process.replica.committee
        if committee.index is None or vote.epoch != committee.epoch:
            return
        session, epoch, wanted = self._wanted.get(node.place, (None, 0, {}))
        if session is not process or epoch != vote.epoch:
            wanted = {}
            self._wanted[node.place] = (process, vote.epoch, wanted)
        sender = committee.name(vote.sender)
        wanted[sender] = max(vote.view, wanted.get(sender, 0))
        higher = sorted(view for view in wanted.values() if view > replica.view)
        weak = (len(committee.validators.names) - 1) // 3 + 1
        if len(higher) >= weak:
            text = f"{node.name} stays in view {replica.view} although {len(higher)} honest others want {higher[0]} or later"
            raise Violation("join", text)
