import pytest

from optimize.deadline import Deadline


def test_without_a_time_it_is_never_over_and_an_interrupt_goes_on():
    deadline = Deadline(clock=lambda: 0.0)
    assert not deadline.over()
    with pytest.raises(KeyboardInterrupt), deadline.ending():
        raise KeyboardInterrupt
    assert not deadline.over()


def test_a_share_of_the_time_is_over_before_the_whole():
    now = [100.0]
    deadline = Deadline(60, clock=lambda: now[0])
    now[0] += 40
    assert deadline.over(0.6) and not deadline.over()
    now[0] += 21
    assert deadline.over() and "60 s of --time" in deadline.why


def test_the_first_interrupt_ends_the_search_and_the_second_the_run():
    deadline = Deadline(1e9)
    with deadline.ending():
        raise KeyboardInterrupt
    assert deadline.over() and deadline.why == "the search was interrupted"
    with pytest.raises(KeyboardInterrupt), deadline.ending():
        raise KeyboardInterrupt
