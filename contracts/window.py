"""Anti-replay windows (RFC 4303, section 3.4.3): each number counts once, in any order, in constant space.

A window is the highest number spent and which of the 1024 numbers up to it are still *unspent* (so somebody who counts 1, 2, 3 has
an empty bitmap). Everything older is taken as spent.
"""

from __future__ import annotations

from consensus.codec import Wire

WINDOW = 1024
_FULL = (1 << WINDOW) - 1


class Window(Wire, frozen=True):
    """Which numbers of one sender are spent.

    Fields:
        highest: largest number spent; 0 at first.
        gaps: big-endian bitmap without leading zeros; bit i is set if ``highest - i`` is not spent yet.
    """

    highest: int = 0
    gaps: bytes = b""


EMPTY_WINDOW = Window()


def is_spent(window: Window, number: int) -> bool:
    """Tell whether ``number`` is spent: used, below 1, or so old that the window forgot it."""
    behind = window.highest - number
    if behind < 0:
        return False
    return behind >= WINDOW or number < 1 or not int.from_bytes(window.gaps, "big") >> behind & 1


def is_too_far(window: Window, number: int) -> bool:
    """Tell whether ``number`` is more than a window ahead."""
    return number > window.highest + WINDOW


def spend(window: Window, number: int) -> Window:
    """Return the window after ``number``, which must not be spent."""
    ahead = number - window.highest
    if ahead == 1 and not window.gaps:
        return Window(number)
    gaps = int.from_bytes(window.gaps, "big")
    if ahead > 0:
        gaps = ((gaps << ahead | (1 << ahead) - 2) if ahead <= WINDOW else _FULL - 1) & _FULL
        highest = number
    else:
        gaps ^= 1 << -ahead
        highest = window.highest
    return Window(highest, gaps.to_bytes((gaps.bit_length() + 7) // 8, "big"))
