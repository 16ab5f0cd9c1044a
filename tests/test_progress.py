import sys

import pytest

from trashseg_jax.run import progress
from trashseg_jax.run.progress import Progress, format_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.6, "1 min 00 s"),
        (187.0, "3 min 07 s"),
        (3900.0, "1 h 05 min"),
        (90000.0, "25 h 00 min"),
    ],
)
def test_durations_are_written_as_people_say_them(seconds, text):
    assert format_seconds(seconds) == text


def test_lines_come_at_intervals_and_at_the_end_with_the_time_left(capsys, monkeypatch):
    """Steps of four seconds, from step 10 on: a line each ten seconds at most."""
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Progress(first=10, total=16) as shown:
        for step in range(11, 17):
            clock[0] += 4.0
            shown.show(step, loss=0.5, images_per_second=2.0)
    assert capsys.readouterr().out.splitlines() == [
        "step 11 of 16: loss 0.500, 2.0 images/s, 20 s left",
        "step 14 of 16: loss 0.500, 2.0 images/s, 8 s left",
        "step 16 of 16: loss 0.500, 2.0 images/s, 0 s left",
    ]


def test_a_terminal_gets_a_bar_instead(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress(first=0, total=2) as shown:
        shown.show(2, loss=0.25, images_per_second=2.0)
        shown.write("step 2: mIoU 0.5")
    printed = capsys.readouterr()
    assert printed.out == "step 2: mIoU 0.5\n"
    assert "loss=0.250" in printed.err
