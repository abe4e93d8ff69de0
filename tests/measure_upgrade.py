"""The longest wait of programs of the original during a live upgrade: ``python -m tests.measure_upgrade``."""

import click

from tests.measure import SETTINGS, upgrade
from tests.sql_servers import MariaDB


@click.command()
@click.option("--rows", type=click.IntRange(1000), default=1_000_000, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
def main(rows: int, rounds: int) -> None:
    """Upgrade a table of the original to the newest revision while its programs insert and claim."""
    with MariaDB(*SETTINGS) as server:
        for _ in range(rounds):
            upgrade(server, rows)


if __name__ == "__main__":
    main()
