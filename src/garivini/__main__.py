"""The command ``garivini``, also as ``python -m garivini``."""

import os
import signal
import sys


def main() -> None:
    """Run the command. Signals are handled before the slow imports."""
    if os.getpid() == 1:  # as in a container: the kernel delivers only signals that it handles
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        from garivini.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
