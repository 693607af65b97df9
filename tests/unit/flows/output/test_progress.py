from flows.output.progress import Progress
from materials.plain_text import duration


def test_lines_tell_the_start_and_the_end() -> None:
    lines: list[str] = []
    progress = Progress(lines.append)
    with progress.timed("relaxation"), progress.counting("Screening", 3, "structures") as counter:
        counter.advance(2)
        counter.advance()
    assert lines[0] == "Screening: 3 structures"
    assert lines[-1].strip().startswith("3 of 3 structures in")
    assert progress.seconds["relaxation"] >= 0


def test_seconds_of_a_stage_add_up_even_when_it_fails() -> None:
    progress = Progress(lambda line: None)
    for _ in range(2):
        try:
            with progress.timed("DFT"):
                raise ValueError
        except ValueError:
            pass
    assert list(progress.seconds) == ["DFT"]


def test_durations_read_well() -> None:
    assert [duration(s) for s in (0.44, 8.04, 59.6, 200, 7500)] == [
        "0.4 s",
        "8.0 s",
        "1 min 00 s",
        "3 min 20 s",
        "2 h 05 min",
    ]
