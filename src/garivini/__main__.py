"""The command ``garivini``, also as ``python -m garivini``."""

import os
import signal
import sys


def main() -> None:
    """Run the command. Signals are handled even while the slow imports run."""
    if os.getpid() == 1:  # as in a container: process 1 gets only signals that have a handler
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        from garivini.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
