"""A private Galera cluster of MariaDB on the loopback interface, for tests."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pymysql

from tests.processes import PATIENCE
from tests.servers import free_port
from tests.sql_servers import MariaDB

#: Debian's place of Galera's library.
_LIBRARY: Final = Path("/usr/lib/galera/libgalera_smm.so")
#: Stands in for the program that would send the data to a joining node, which has them already: passes on the
#: position that they are of. It is run on both sides.
_TRANSFER: Final = """\
#!/bin/sh
while [ $# -gt 0 ]; do
  case $1 in
    --role) role=$2 ;;
    --address) address=$2 ;;
    --gtid) position=$2 ;;
  esac
  shift
done
if [ "$role" = donor ]; then
  echo "$position" >"${address#*/}.new"
  mv "${address#*/}.new" "${address#*/}"
  echo "done $position"
  exit
fi
file=$(mktemp -u)
echo "ready $address/$file"
until [ -e "$file" ]; do sleep 0.05; done
cat "$file"
rm "$file"
"""


class Node(MariaDB):
    """A node of a cluster."""

    def __init__(self, name: str, seed: MariaDB, *settings: str) -> None:
        super().__init__(*settings)
        self.name: Final = name
        self.password = seed.password
        #: Where it listens for the other nodes.
        self.group_address: Final = f"127.0.0.1:{free_port()}"
        self._missed: Final = f"127.0.0.1:{free_port()}"
        #: The nodes of its cluster; the first one begins it.
        self.nodes: Sequence[Node] = [self]
        self._seed = seed

    def _install(self) -> None:
        # No node is sent the data of another, which would take programs of other packages. The copy knows
        # which state of the cluster it has.
        self._run("cp", "-R", str(self._seed.folder / "data"), str(self._data))
        transfer = self.folder / "wsrep_sst_position"
        transfer.write_text(_TRANSFER)
        transfer.chmod(0o755)

    def _as_user(self) -> dict[str, Any]:
        options = super()._as_user()
        options["env"]["PATH"] += f":{self.folder}"
        return options

    def _command(self) -> list[str]:
        # Its statements are in the data already; the cluster would run them at each node.
        plain = [word for word in super()._command() if not word.startswith("--init-file")]
        others = ",".join(node.group_address for node in self.nodes)
        options = {
            "gmcast.listen_addr": f"tcp://{self.group_address}",
            "ist.recv_addr": self._missed,
            "gcache.size": "32M",
            "socket.checksum": "1",
        }
        return [
            *plain,
            "--binlog-format=ROW",
            "--innodb-autoinc-lock-mode=2",
            "--wsrep-on=ON",
            f"--wsrep-provider={_LIBRARY}",
            f"--wsrep-cluster-address=gcomm://{others}",
            "--wsrep-cluster-name=garivini",
            f"--wsrep-node-name={self.name}",
            f"--wsrep-node-address={self.group_address}",
            "--wsrep-sst-method=position",
            f"--wsrep-provider-options={';'.join(f'{name}={value}' for name, value in options.items())}",
            *(["--wsrep-new-cluster"] if self.nodes[0] is self else []),
        ]

    def status(self, name: str) -> str:
        """Return a variable of the server's state."""
        return str(self.execute("SHOW GLOBAL STATUS LIKE %s", parameters=[name])[0][1])

    def until_seen(self, sql: str, database: str) -> None:
        """Wait until a query at this node, which applies what others commit a little later, finds a row."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(pymysql.err.ProgrammingError, pymysql.err.OperationalError):  # no table yet
                if self.execute(sql, database):
                    return
            assert time.monotonic() < deadline, f"{self.name} does not see what {sql} finds"
            time.sleep(0.01)  # it says nothing when it does

    def until(self, name: str, value: str) -> None:
        """Wait until a variable of the server's state, which says nothing itself, has this value."""
        deadline = time.monotonic() + PATIENCE
        while self.status(name) != value:
            assert time.monotonic() < deadline, f"{name} is not {value}"
            time.sleep(0.02)


@contextmanager
def cluster(size: int = 2, *settings: str) -> Iterator[list[Node]]:
    """Run a cluster; yield its nodes, all of which take part.

    A missing Galera is an error and never a reason to skip.
    """
    if not _LIBRARY.exists():
        raise RuntimeError("galera is missing: `make servers`, or install the package galera-4")
    with ExitStack() as stack:
        plain = stack.enter_context(MariaDB())
        plain.stop()
        seed = stack.enter_context(Node("seed", plain))
        seed.stop()
        nodes = [Node(f"node{number}", seed, *settings) for number in range(1, size + 1)]
        for node in nodes:
            stack.callback(node.close)
            node.nodes = nodes
        for number, node in enumerate(nodes, 1):
            node.start()
            node.until("wsrep_local_state_comment", "Synced")
            nodes[0].until("wsrep_cluster_size", str(number))
        yield nodes
