"""The grab window, on its own."""

from hypothesis import given
from hypothesis import strategies as st

from garivini.gearman.protocol.window import MAX_WINDOW, GrabWindow


def test_window_is_wide_before_the_first_wake_up() -> None:
    assert GrabWindow().size == MAX_WINDOW


def test_woken_leaves_one_grab_and_each_job_adds_one() -> None:
    window = GrabWindow()
    window.woken()
    assert window.size == 1
    window.arrived(1)
    assert window.size == 2
    window.arrived(2)
    assert window.size == 4


def test_woken_leaves_an_eager_window_as_many_grabs_as_jobs_arrived() -> None:
    window = GrabWindow(eager=True)
    window.arrived(100)
    window.woken()
    assert window.size == 100
    window.arrived(80)  # of 84 that narrow it
    assert window.size == 20
    window.arrived(8)
    assert window.size == 20  # four narrow it and four widen it


@given(
    st.booleans(),
    st.lists(st.integers(0, 2 * MAX_WINDOW) | st.none(), max_size=10),
)
def test_arrived_counts_jobs_together_as_one_by_one(eager: bool, steps: list[int | None]) -> None:
    together, single = GrabWindow(eager=eager), GrabWindow(eager=eager)
    for jobs in steps:
        if jobs is None:
            together.woken()
            single.woken()
        else:
            together.arrived(jobs)
            for _ in range(jobs):
                single.arrived(1)
        assert together.size == single.size
        assert 1 <= together.size <= MAX_WINDOW
