from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from contracts.window import EMPTY_WINDOW, WINDOW, Window, is_spent, is_too_far, spend


class BruteForce:
    """All numbers ever spent, and the rule of the window in plain words."""

    def __init__(self) -> None:
        self.spent: set[int] = set()

    def accepts(self, number: int) -> bool:
        highest = max(self.spent, default=0)
        return number >= 1 and highest - WINDOW < number <= highest + WINDOW and number not in self.spent


@given(st.lists(st.one_of(st.integers(-3, 40), st.integers(-1_100, 1_100)), max_size=80))
@example([1024, 1, 1025, 1, 2, 2049, 1025, 1026])
@example([1025])
def test_the_window_agrees_with_remembering_everything(steps: list[int]) -> None:
    window, oracle = EMPTY_WINDOW, BruteForce()
    for step in steps:
        for number in (step, window.highest + step):
            accepted = not is_spent(window, number) and not is_too_far(window, number)
            assert accepted == oracle.accepts(number)
            if accepted:
                window = spend(window, number)
                oracle.spent.add(number)
    assert window.highest == max(oracle.spent, default=0)


@given(st.permutations(range(1, 41)))
def test_equal_sets_of_numbers_leave_equal_windows(order: list[int]) -> None:
    window = EMPTY_WINDOW
    for number in order:
        window = spend(window, number)
    assert window == Window(40)


def test_a_far_jump_leaves_everything_in_reach_open() -> None:
    window = spend(EMPTY_WINDOW, 10**9)
    assert not is_spent(window, 10**9 - 1) and not is_spent(window, 10**9 - WINDOW + 1)
    assert is_spent(window, 10**9 - WINDOW) and is_spent(window, 1) and is_spent(window, 10**9)
    assert len(window.gaps) == WINDOW // 8
