"""A private PgBouncer on the loopback interface, between a test and a private PostgreSQL."""

import os
import pwd
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

from tests.processes import PATIENCE, started
from tests.servers import free_port
from tests.sql_servers import UNPRIVILEGED


@contextmanager
def pgbouncer(url: str, *, port: int = 0, **settings: Any) -> Iterator[str]:
    """Run a PgBouncer in front of the PostgreSQL of a URL; yield the URL that leads through it.

    A missing PgBouncer is an error and never a reason to skip.

    Args:
        url: of the database, with user and password.
        port: on which it listens; 0 for a free one.
        settings: of PgBouncer, instead of those below.

    """
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise RuntimeError("pgbouncer is missing: `make servers`, or install the package pgbouncer")
    target = make_url(url)
    port = port or free_port()
    # Not pytest's folder: PgBouncer refuses to run as root, and no other user may look into that.
    folder = Path(tempfile.mkdtemp(prefix="garivini-pgbouncer-"))
    chosen = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "trust",
        "auth_file": folder / "users",
        "pool_mode": "transaction",
        "default_pool_size": 4,
        **settings,
    }
    lines = ["[databases]", f"* = host={target.host} port={target.port}", "[pgbouncer]"]
    lines += [f"{name} = {value}" for name, value in chosen.items()]
    options: dict[str, Any] = {}
    if os.getuid() == 0:
        shutil.chown(folder, UNPRIVILEGED)
        options = {"user": UNPRIVILEGED, "group": pwd.getpwnam(UNPRIVILEGED).pw_gid, "extra_groups": []}
    (folder / "users").write_text(f'"{target.username}" "{target.password}"\n')
    (folder / "settings.ini").write_text("\n".join([*lines, ""]))
    through = target.set(port=port)
    try:
        with (folder / "log").open("wb") as log:
            words = [program, str(folder / "settings.ini")]
            with started(words, cwd=folder, stdout=log, stderr=log, **options) as process:
                _wait_until_ready(process, port, folder / "log")
                yield through.render_as_string(hide_password=False)
    finally:
        shutil.rmtree(folder)


def _wait_until_ready(process: Any, port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            # Its own console: no session of PostgreSQL is opened.
            psycopg.connect(f"host=127.0.0.1 port={port} user=pgbouncer dbname=pgbouncer").close()
        except psycopg.OperationalError as error:
            if "Connection refused" not in str(error):
                return  # it has answered
        else:
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"pgbouncer does not start: {log.read_text(errors='replace')}")
        time.sleep(0.01)  # it says nothing when it is ready
