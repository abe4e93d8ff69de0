"""Hostile input for everything that reads bytes from outside: ``python -m tests.fuzz [INPUTS] [SEED]``.

Valid input is made and then damaged: bytes changed, cut, repeated, lengths forged. What reads it must take
it, or refuse it with an error of ours, soon, and hold no more memory than its limit. Anything else ends the
run with the seed and the input.
"""

import json
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from garivini.errors import ProtocolError, UsageError
from garivini.gearman import admin
from garivini.gearman.broker import Broker
from garivini.gearman.console import answer
from garivini.gearman.packets import REQUEST, RESPONSE, Decoder, Packet, Type, encode
from garivini.gearman.protocol import ClientProtocol, Submission, WorkerProtocol
from garivini.model.handles import handle_of
from garivini.model.job import Job
from garivini.model.payload import decode_payload, encode_payload
from garivini.roles import inject_calls

LIMIT: Final = 4096
#: Seconds that one input may take.
PATIENCE: Final = 5.0


def damage(data: bytes, dice: random.Random) -> bytes:
    """Return the data with some damage, or none."""
    damaged = bytearray(data)
    for _ in range(dice.choice((0, 1, 1, 2, 5))):
        place = dice.randrange(len(damaged) + 1)
        match dice.randrange(6):
            case 0:
                damaged[place : place + 1] = bytes([dice.randrange(256)])
            case 1:
                del damaged[place : place + dice.randrange(1, 20)]
            case 2:
                damaged[place:place] = dice.randbytes(dice.randrange(1, 20))
            case 3:
                damaged[place:place] = damaged[: dice.randrange(40)]
            case 4 if len(damaged) >= 12:
                start = dice.randrange(len(damaged) - 11)
                damaged[start + 8 : start + 12] = dice.choice(
                    (b"\xff\xff\xff\xff", b"\0\0\x10\x01", b"\0\0\0\0")
                )
            case 5:
                damaged[place : place + 4] = dice.choice(
                    (b"\0REQ", b"\0RES", b"\r\n.\n", b'"]}', b"\xed\xa0\x80")
                )
    return bytes(damaged)


#: What a peer may say to each side, mostly.
TO_CLIENT: Final = (
    Type.ECHO_RES,
    Type.JOB_CREATED,
    Type.ERROR,
    Type.WORK_COMPLETE,
    Type.WORK_DATA,
    Type.NOOP,
)
TO_WORKER: Final = (Type.JOB_ASSIGN_UNIQ, Type.NO_JOB, Type.NOOP, Type.ERROR)


def stream(
    magic: bytes, dice: random.Random, kinds: Sequence[Type] = tuple(Type), lines: float = 0.2
) -> bytes:
    """Return some packets and lines."""
    parts = []
    for _ in range(dice.randrange(1, 6)):
        if dice.random() < lines:
            parts.append(
                dice.choice((b"status\n", b"workers\r\n", b"f\t1\t0\t1\n", b".\n", b"OK 1\n", b"ERR x y\n"))
            )
            continue
        kind = dice.choice(kinds)
        fields = [dice.randbytes(dice.randrange(12)).replace(b"\0", b"") for _ in kind.fields]
        parts.append(encode(magic, kind, *fields))
    return b"".join(parts)


def chunks(data: bytes, dice: random.Random) -> list[bytes]:
    """Cut the data as a network might."""
    parts = []
    while data:
        size = dice.choice((1, 3, 12, 64, 1000))
        parts.append(data[:size])
        data = data[size:]
    return parts


def decoder(dice: random.Random) -> None:
    """Feed the packet decoder."""
    magic = dice.choice((REQUEST, RESPONSE))
    reader = Decoder(magic, lines=dice.random() < 0.5, max_body=LIMIT)
    for part in chunks(damage(stream(magic, dice), dice), dice):
        for _ in reader.feed(part):
            pass
        assert reader.buffered <= LIMIT + 12 + len(part), reader.buffered


def client(dice: random.Random) -> None:
    """Feed a client that waits for some answers."""
    core: ClientProtocol[int] = ClientProtocol(max_body=LIMIT)
    for tag in range(dice.randrange(8)):
        match dice.randrange(3):
            case 0:
                core.submit(tag, Submission(b"f", b""), foreground=dice.random() < 0.3)
            case 1:
                core.command(tag, b"status", block=dice.random() < 0.5)
            case 2:
                core.echo(tag, b"")
    for part in chunks(damage(stream(RESPONSE, dice, TO_CLIENT), dice), dice):
        for _ in core.receive(part):
            pass


def worker(dice: random.Random) -> None:
    """Feed a worker that waits for jobs."""
    core = WorkerProtocol([b"f"], slots=dice.randrange(4), max_body=LIMIT)
    for part in chunks(damage(stream(RESPONSE, dice, TO_WORKER, lines=0.01), dice), dice):
        core.receive(part)
        core.data_to_send()


def server(dice: random.Random) -> None:
    """Feed the embedded server's core."""
    broker = Broker(b"H:fuzz", version=b"1", pid=1)
    connection = broker.join(1, b"127.0.0.1")
    reader = Decoder(REQUEST, lines=True, max_body=LIMIT)
    for part in chunks(damage(stream(REQUEST, dice), dice), dice):
        for item in reader.feed(part):
            if isinstance(item, Packet):
                broker.receive(connection, item)
            else:
                answer(broker, item.text)


def payload(dice: random.Random) -> None:
    """Read a worker's payload."""
    arg = dice.randbytes(dice.randrange(40)) if dice.random() < 0.5 else b"text \xc3\xa9"
    job = Job(
        jobid=dice.randrange(1, 2**63), dbid=1, funcname="f", arg=arg, attempt=dice.choice((None, 1, 7))
    )
    data = damage(encode_payload(job, latin1=dice.random() < 0.3), dice)
    found = decode_payload(dice.choice((data, data * 3, b"[" * dice.randrange(3000) + data)))
    assert found.jobid > 0
    assert handle_of(data).jobid == found.jobid


def call(dice: random.Random) -> None:
    """Check what reads the calls of ``inject_jobs``."""
    job: dict[str, object] = {
        "funcname": dice.choice(("f", "mail.send")),
        "arg": dice.choice(("", "Grüße", "/w==", 1.5, None)),
        "run_after": dice.choice((0, 3.5, "60", None)),
        "unique": dice.choice(("k", 42, None)),
    }
    if dice.random() < 0.3:
        job |= {"arg": {"a": [1]}} if dice.random() < 0.5 else {"arg_encoding": "base64"}
    data = damage(json.dumps(dice.choice((job, [job] * dice.randrange(1, 4)))).encode(), dice)
    rules = inject_calls.Rules(max_arg=LIMIT, json_args=dice.random() < 0.5)
    for new in inject_calls.read(dice.choice((data, data, b"[" * dice.randrange(3000) + data)), rules)[0]:
        assert len(new.arg) <= LIMIT


def lines(dice: random.Random) -> None:
    """Read answers of the administrative protocol."""
    readers: list[tuple[Callable[[list[bytes]], object], bytes]] = [
        (admin.parse_status, b"f\t10\t2\t3\ng\t0\t0\t0"),
        (admin.parse_workers, b"12 127.0.0.1 me : f g\n13 ::1 - :"),
        (admin.parse_jobs, b"H:a:1\t0\t0\t1\nH:a:2\t3\t1\t0"),
        (admin.parse_priority_status, b"f\t1\t2\t3\t4\ng\t0\t0\t0\t0"),
    ]
    read, text = dice.choice(readers)
    read(damage(text, dice).split(b"\n"))


TARGETS: Final = (decoder, client, worker, server, payload, call, lines)


def run(inputs: int, seed: int) -> dict[str, int]:
    """Try so many inputs; return how many each target refused."""
    refused = dict.fromkeys((target.__name__ for target in TARGETS), 0)

    def too_slow(number: int, frame: object) -> None:
        raise TimeoutError(f"one input took over {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, too_slow)
    try:
        for number in range(inputs):
            target = TARGETS[number % len(TARGETS)]
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
            try:
                target(random.Random(f"{seed}:{number}"))
            except (ProtocolError, UsageError):
                refused[target.__name__] += 1
            except BaseException as error:
                error.add_note(f"seed {seed}, input {number}, target {target.__name__}")
                raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return refused


def main() -> None:
    """Run and report."""
    inputs = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    began, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = run(inputs, seed)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    report = {"inputs": inputs, "seed": seed, "seconds": round(time.monotonic() - began), "grown_kib": grown}
    print(json.dumps({**report, "refused": refused}))  # noqa: T201


if __name__ == "__main__":
    main()
