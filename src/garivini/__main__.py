"""``python -m garivini``: the command."""

from garivini.cli import main

main()
