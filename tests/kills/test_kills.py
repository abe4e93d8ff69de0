"""That the check of a history bites, and a short form of ``make kills``."""

from pathlib import Path

import pytest

from garivini import Job, State
from tests.kills.history import (
    Acknowledged,
    AnyLine,
    Attempted,
    Ended,
    History,
    JobId,
    Killed,
    Recorder,
    Refused,
    Started,
    check,
)
from tests.kills.kill import ROLES, percentile, report, run

JOB: JobId = (1, 1)


def asked(token: str = "a", job: JobId = JOB) -> list[AnyLine]:
    return [Attempted(time=1, tokens=[token]), Acknowledged(time=2, tokens=[token], jobs=[job])]


def ran(time: int, *, token: str = "a", job: JobId = JOB, attempt: int = 1, pid: int = 7) -> list[AnyLine]:
    return [
        Started(time=time, job=job, attempt=attempt, token=token, pid=pid),
        Ended(time=time + 1, job=job, attempt=attempt, token=token, pid=pid),
    ]


def begun(time: int, *, token: str = "a", job: JobId = JOB, attempt: int = 1, pid: int = 7) -> list[AnyLine]:
    return ran(time, token=token, job=job, attempt=attempt, pid=pid)[:1]


def kill(time: int, *in_flight: JobId, role: str = "worker-child", attempt: int = 1) -> Killed:
    halted = [(job, attempt) for job in in_flight]
    return Killed(time=time, role=role, pids=[7], in_flight=list(in_flight), halted=halted)


def row(state: State, failcount: int = 0) -> Job:
    return Job(jobid=1, dbid=1, funcname="f", arg=b"", state=state, failcount=failcount)


class TestCheck:
    def test_a_job_that_ran_once_is_sound(self) -> None:
        verdict = check([*asked(), *ran(10)], [])
        assert verdict.sound
        assert verdict.acknowledged == 1

    def test_an_acknowledged_job_that_never_ran_is_lost(self) -> None:
        verdict = check(asked(), [])
        assert verdict.lost == [JOB]
        assert not verdict.sound

    def test_a_job_that_began_and_reached_no_end_is_lost(self) -> None:
        verdict = check([*asked(), *begun(10)], [])
        assert verdict.lost == [JOB]
        assert not verdict.sound

    @pytest.mark.parametrize("kept", [row(State.DEAD), row(State.WAITING, failcount=1)])
    def test_what_is_dead_or_backs_off_is_kept_and_not_lost(self, kept: Job) -> None:
        verdict = check([*asked(), *begun(10)], [kept])
        assert (verdict.lost, verdict.kept) == ([], [JOB])
        assert verdict.sound

    @pytest.mark.parametrize("state", [State.WAITING, State.LEASED, State.RUNNING, State.SUSPECT])
    def test_a_row_that_is_left_is_no_excuse(self, state: State) -> None:
        verdict = check(asked(), [row(state)])
        assert (verdict.lost, verdict.left) == ([JOB], [JOB])
        assert verdict.leased == ([] if state is State.WAITING else [JOB])
        ran_and_stayed = check([*asked(), *ran(10)], [row(state)])
        assert not ran_and_stayed.sound

    def test_what_nobody_asked_for_is_unexpected(self) -> None:
        for lines in (
            ran(10),
            [Attempted(time=1, tokens=["a"]), Refused(time=2, tokens=["a"], error="full"), *ran(10)],
            [*asked(job=(2, 1)), *ran(10, job=(2, 1)), *ran(20)],
        ):
            verdict = check(lines, [])
            assert verdict.unexpected == ["a"], lines
            assert not verdict.sound

    def test_what_ran_without_an_answer_is_recovered(self) -> None:
        verdict = check([Attempted(time=1, tokens=["a"]), *ran(10)], [])
        assert verdict.recovered == ["a"]
        assert verdict.sound

    def test_what_was_refused_or_unanswered_and_never_ran_is_sound(self) -> None:
        unanswered = Attempted(time=1, tokens=["a"])
        assert check([unanswered], []).sound
        assert check([unanswered, Refused(time=2, tokens=["a"], error="full")], []).sound

    def test_a_call_that_an_injector_died_over_may_be_stored_once_more(self) -> None:
        lines = [
            Attempted(time=1, tokens=["a"]),
            Acknowledged(time=20, tokens=["a"], jobs=[(2, 1)]),
            *ran(10),
            *ran(30, job=(2, 1)),
        ]
        assert check(lines, []).unexpected == ["a"]
        assert check([*lines, kill(25, role="injector")], []).unexpected == ["a"]
        verdict = check([*lines, kill(5, role="injector")], [])
        assert verdict.sound
        assert verdict.stored_again == {"a": 1}
        assert not check([*lines, kill(5, role="injector"), *ran(40, job=(3, 1))], []).sound

    def test_a_second_run_without_a_fault_is_unexplained(self) -> None:
        verdict = check([*asked(), *ran(10), *ran(20)], [])
        assert verdict.unexplained == [JOB]
        assert (verdict.started_again, verdict.ended_again) == ({JOB: 1}, {JOB: 1})
        assert not verdict.sound

    def test_a_kill_explains_one_more_start_of_what_was_in_flight_at_it(self) -> None:
        once = [*asked(), *begun(10), kill(15, JOB), *ran(20)]
        verdict = check(once, [])
        assert verdict.sound
        assert (verdict.started_again, verdict.ended_again) == ({JOB: 1}, {})
        assert check([*once, *ran(30)], []).unexplained == [JOB]
        assert check([*once, kill(25, JOB), *ran(30)], []).sound

    def test_a_kill_explains_neither_what_was_not_in_flight_nor_what_had_run_again_before(self) -> None:
        twice = [*asked(), *begun(10), *ran(20)]
        assert check([*twice, kill(15, (2, 1))], []).unexplained == [JOB]
        assert check([*twice, kill(25, JOB)], []).unexplained == [JOB]
        assert check([*twice, kill(15, JOB)], []).sound


class TestReport:
    def test_the_time_counts_until_what_was_in_flight_starts_again(self) -> None:
        second, third = (2, 1), (3, 1)
        lines = [
            *(line for job in (JOB, second) for line in begun(5, job=job)),
            kill(1_000_000_000, JOB, second),
            *begun(1_100_000_000, job=third),
            *begun(1_500_000_000, job=JOB, pid=8),
            *begun(3_000_000_000, job=second, pid=8),
        ]
        starts = [line for line in lines if isinstance(line, Killed)]
        found = report("worker-child", starts, lines)
        assert (found.kills, found.in_flight, found.first, found.all) == (1, 2, [0.5], [2.0])

    def test_a_copy_that_a_worker_held_already_says_nothing_of_a_server(self) -> None:
        killed = kill(1_000_000_000, JOB, role="gearman")
        lines = [killed, *begun(1_100_000_000), *begun(2_000_000_000, attempt=2)]
        assert report("gearman", [killed], lines).first == [1.0]

    def test_where_nothing_was_in_flight_the_first_job_inserted_since_counts(self) -> None:
        before, after = (2, 1), (3, 1)
        lines = [
            *asked(job=before),
            Acknowledged(time=1_200_000_000, tokens=["b"], jobs=[after]),
            *begun(1_100_000_000, job=before),
            *begun(1_700_000_000, job=after),
        ]
        assert report("queue-runner", [kill(1_000_000_000, role="queue-runner")], lines).first == [0.7]
        assert report("worker-child", [kill(1_000_000_000)], lines).first == []

    def test_after_the_death_of_a_parent_a_new_process_has_to_run_a_job(self) -> None:
        killed = kill(1_000_000_000, role="worker-parent")
        lines = [*begun(5), killed, *begun(1_100_000_000), *begun(1_900_000_000, pid=8)]
        assert report("worker-parent", [killed], lines).first == [0.9]

    def test_what_the_last_calls_of_a_controller_start_does_not_show_that_it_is_back(self) -> None:
        queued = (2, 1)
        killed = kill(1_000_000_000, JOB, queued, role="controller")
        lines = [
            *begun(5),
            killed,
            *begun(1_100_000_000, job=queued),
            *begun(1_800_000_000),
            *begun(1_900_000_000, job=queued),
        ]
        found = report("controller", [killed], lines)
        assert (found.first, found.all) == ([0.8], [0.9])

    def test_a_percentile_is_the_nearest_rank(self) -> None:
        times = [float(number) for number in range(1, 51)]
        assert [percentile(times, share) for share in (0.5, 0.99, 1.0)] == [25.0, 50.0, 50.0]
        assert percentile([3.0], 0.5) == 3.0


def test_a_history_is_read_as_far_as_its_lines_are_whole(tmp_path: Path) -> None:
    record = Recorder(tmp_path)
    lines = [*asked(), *ran(10), kill(15, JOB)]
    history = History(tmp_path)
    for line in lines:
        record(line)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert history.refresh().lines == lines[:-1]
    file.write_bytes(whole)
    assert history.refresh().lines == lines
    assert check(history.lines, []).sound


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("kills", "jobs"), [(1, 100), pytest.param(3, 500, marks=pytest.mark.soak)])
def test_nothing_is_lost_whichever_role_is_killed(tmp_path: Path, kills: int, jobs: int) -> None:
    outcome = run(tmp_path, ROLES, kills, seed=1)
    assert outcome.verdict.sound, outcome
    assert outcome.verdict.acknowledged > jobs
    for part in outcome.reports:
        assert part.kills == kills
        # Half a lease: whatever waits for one to end has been forgotten.
        assert max(part.all, default=0.0) < 30.0, part
