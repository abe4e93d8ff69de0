"""The client's and worker's protocol on a broker, joined without a network."""

from typing import Any

from garivini.gearman.broker import Broker
from garivini.gearman.console import answer
from garivini.gearman.jobs import Connection
from garivini.gearman.packets import REQUEST, Decoder, Packet
from garivini.gearman.protocol import ClientProtocol, WorkerProtocol

Protocol = ClientProtocol[Any] | WorkerProtocol


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
