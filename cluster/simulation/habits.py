"""What Byzantine nodes do.

| habit | what it is |
| --- | --- |
| equivocate | as primary it proposes two batches for one place, one to each half, and votes with each half for its own |
| double | votes for something else now and then, in every kind of vote |
| silent | says nothing to some |
| idle | as primary it proposes nothing |
| mute-checkpoint | never signs a header |
| stale-view-change | leaves prepared certificates out of its view-changes, or shows older ones |
| forged-view-change | asks for inflated views, with proofs that prove nothing |
| altered-new-view | as new primary it changes, drops or adds re-proposals |
| relabel | sends votes of others on as votes of another kind or epoch |
| replay | says old things again |
| corrupt | flips bytes: of messages, batches, blocks, manifests and chunks |
| lie | claims wrong heights and views in its status |
| flood | votes for places far in the future |
| censor | leaves one member's transactions out |
| bad-proposal | proposes batches that nobody may propose |
| forge-blocks | answers with blocks of its own making |
| forge-snapshot | answers with a state of its own making |
"""

from __future__ import annotations

HABITS = (
    "equivocate",
    "double",
    "silent",
    "idle",
    "mute-checkpoint",
    "stale-view-change",
    "forged-view-change",
    "altered-new-view",
    "relabel",
    "replay",
    "corrupt",
    "lie",
    "flood",
    "censor",
    "bad-proposal",
    "forge-blocks",
    "forge-snapshot",
)
