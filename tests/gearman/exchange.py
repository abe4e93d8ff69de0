"""The client's and worker's protocol on a broker, joined without a network."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from garivini.gearman.broker import Broker
from garivini.gearman.console import answer
from garivini.gearman.jobs import Connection
from garivini.gearman.packets import REQUEST, RESPONSE, Decoder, Packet, Type, encode
from garivini.gearman.protocol import ClientProtocol, Event, Submission, WorkerProtocol

Protocol = ClientProtocol[Any] | WorkerProtocol

H = b"H:test:1"
JOB = Submission(b"f", b"data")


def said(kind: Type, *fields: bytes) -> bytes:
    """A server's packet."""
    return encode(RESPONSE, kind, *fields)


def sent(protocol: Protocol) -> list[str]:
    """Names of the packets that a protocol has to send, which takes them."""
    items = Decoder(REQUEST).feed(protocol.data_to_send())
    return [item.type.name for item in items if isinstance(item, Packet)]


def callbacks() -> ClientProtocol[Callable[[Event], None]]:
    """A client whose tags are what to do with the answer, as a batch wants it."""
    return ClientProtocol()


#: What a server might say, sense and nonsense.
responses = st.sampled_from(Type).flatmap(
    lambda kind: st.tuples(
        *(st.sampled_from([b"", b"1", b"x", H, b"H:test:2", H + b"\0"]) for _ in kind.fields)
    ).map(lambda fields: encode(RESPONSE, kind, *fields))
)
streams = st.lists(
    responses | st.sampled_from([b"OK\r\n", b".\n", b"ERR A b\n"]) | st.binary(max_size=20), max_size=12
)


class Exchange:
    """A broker and protocols that talk with it; ``run`` carries bytes until nobody has any left."""

    def __init__(self) -> None:
        self.broker = Broker(b"H:test", version=b"9")
        self._ends: dict[Protocol, tuple[Connection, Decoder]] = {}

    def join(self, *protocols: Protocol) -> None:
        """Connect protocols to the broker."""
        for protocol in protocols:
            connection = self.broker.join(len(self._ends), b"127.0.0.1")
            self._ends[protocol] = connection, Decoder(REQUEST, lines=True)

    @property
    def asleep(self) -> set[Protocol]:
        """The protocols that the broker will wake for a job."""
        return {protocol for protocol, (connection, _) in self._ends.items() if connection.asleep}

    def run(self) -> dict[Protocol, list[Any]]:
        """Carry bytes both ways; return the events of each protocol."""
        events: dict[Protocol, list[Any]] = {protocol: [] for protocol in self._ends}
        protocols = {connection: protocol for protocol, (connection, _) in self._ends.items()}
        moved = True
        while moved:
            moved = False
            for protocol, (connection, decoder) in self._ends.items():
                for item in decoder.feed(protocol.data_to_send()):
                    moved = True
                    if isinstance(item, Packet):
                        self.broker.receive(connection, item)
                    else:
                        self.broker.send(connection, answer(self.broker, item.text))
            for connection, data in self.broker.outgoing():
                moved = True
                protocol = protocols[connection]
                events[protocol].extend(protocol.receive(data))
        return events
