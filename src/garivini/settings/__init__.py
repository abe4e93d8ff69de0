"""Settings, in order of precedence: an argument or flag, the environment, then the settings file.

The commands, ``Client()``, ``AsyncClient()`` and ``Worker()`` read them here. The only I/O is reading files.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from garivini.databases.urls import has_password, shown_name, shown_value
from garivini.errors import UsageError
from garivini.settings.tables import Settings, parse_settings

if TYPE_CHECKING:
    from ssl import SSLContext

DEFAULT_DATABASE: Final = "sqlite:///garivini.db"
DEFAULT_SERVER: Final = "127.0.0.1:4730"
SETTINGS_FILE: Final = "garivini.toml"

#: The environment variables that are read.
VARIABLES: Final = (
    *("GARIVINI_CONFIG", "GARIVINI_DB", "GARIVINI_DB_FILE", "GARIVINI_JOB_SERVERS", "GARIVINI_LOG_FORMAT"),
    *("GARIVINI_LOG_LEVEL", "GARIVINI_LOG_JOBS", "GARIVINI_LOG_TRACEBACKS"),
    *("GARIVINI_TLS_CA", "GARIVINI_TLS_CERTIFICATE", "GARIVINI_TLS_KEY", "GARIVINI_TLS_VERIFY_HOST"),
    *("GARIVINI_BENCH_DB", "GARIVINI_BENCH_RUNS", "GARIVINI_DEMO_RESULTS", "GARIVINI_IMPORT_DB"),
)
_YES: Final = ("1", "true", "t", "yes", "y", "on")
_NO: Final = ("0", "false", "f", "no", "n", "off")


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings of this process."""

    file: Settings = field(default_factory=Settings)
    #: Warnings about settings that can be used anyway.
    warnings: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: TLS options of a command line, by the names of the table ``[tls]``.
    tls_flags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names_databases(self) -> bool:
        """Whether the environment or the file names databases."""
        variables = ("GARIVINI_DB", "GARIVINI_DB_FILE")
        return any(map(self.environment.get, variables)) or bool(self.file.databases)

    @property
    def names_job_servers(self) -> bool:
        """Whether the environment or the file names Gearman servers."""
        return bool(self.environment.get("GARIVINI_JOB_SERVERS") or self.file.job_servers)

    def databases(self) -> list[str]:
        """Return the URLs of the databases.

        Raises:
            UsageError: the file that ``GARIVINI_DB_FILE`` names cannot be read.

        """
        if urls := self.environment.get("GARIVINI_DB", "").split():
            return urls
        if name := self.environment.get("GARIVINI_DB_FILE"):
            return _read(name, "GARIVINI_DB_FILE").decode("utf-8", "replace").split()
        return self.file.databases or [DEFAULT_DATABASE]

    def job_servers(self) -> list[str]:
        """Return the addresses of the Gearman servers, as they were given."""
        servers = self.environment.get("GARIVINI_JOB_SERVERS", "").split()
        return servers or self.file.job_servers or [DEFAULT_SERVER]

    def tls(self) -> "SSLContext | None":
        """Return the TLS context for the Gearman servers, None for plain connections.

        Raises:
            UsageError: a file cannot be read, or the settings contradict each other.

        """
        from garivini.settings.tls import make_context  # OpenSSL is slow to import

        verify = self._tls("verify_host")
        if isinstance(verify, str):
            verify = _parse_bool("GARIVINI_TLS_VERIFY_HOST", verify)
        return make_context(
            self._tls("ca"),
            self._tls("certificate"),
            self._tls("key"),
            verify_host=True if verify is None else verify,
        )

    def _tls(self, name: str) -> Any:
        if name in self.tls_flags:
            return self.tls_flags[name]
        return self.environment.get(f"GARIVINI_TLS_{name.upper()}") or getattr(self.file.tls, name)


def load(path: str | None = None) -> Configuration:
    """Read the environment and the settings file.

    Args:
        path: the name of the file. None: the file that ``GARIVINI_CONFIG`` names, or ``garivini.toml`` in the
            working directory if it exists.

    Raises:
        UsageError: the file cannot be read, or has an unknown key or a wrong value.

    """
    environment = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    name = path or environment.get("GARIVINI_CONFIG")
    warnings = _unknown_variables()
    if name is None and not Path(SETTINGS_FILE).exists():
        return Configuration(warnings=warnings, environment=environment)
    text = _read(name or SETTINGS_FILE, "--config" if path else "GARIVINI_CONFIG" if name else "")
    file = Path(name or SETTINGS_FILE)
    found = parse_settings(text, str(file))
    if any(map(has_password, found.databases)) and file.stat().st_mode & 0o077:
        warnings += (f"{file} has a password, and other users can read it: chmod 600 {file}",)
    return Configuration(found, warnings, environment)


#: The settings of the command that runs an application in this process; empty without such a command.
_chosen: list[Configuration] = []


def choose(configuration: Configuration) -> None:
    """Make ``Client()`` and ``Worker()`` in this process use the settings of the command line."""
    _chosen[:] = [configuration]


def current() -> Configuration:
    """Return the settings for the clients and workers of an application."""
    if _chosen:
        return _chosen[0]
    found = load()
    for warning in found.warnings:
        logging.getLogger("garivini").warning("%s", warning)
    return found


def of_application(module: str | None) -> Configuration:
    """Return the settings for an application.

    Those of the command that runs it have precedence if they name databases. Otherwise they come from the
    environment, then from the file ``garivini.toml`` nearest to the application's module, in its folder or in
    one above. The working directory does not matter.

    Args:
        module: the file of the application's module; None: it has none.

    Raises:
        UsageError: a file cannot be read, or has an unknown key or a wrong value.

    """
    if _chosen and _chosen[0].names_databases:
        return _chosen[0]
    folders = Path(module).resolve().parents if module is not None else ()
    found = next((folder / SETTINGS_FILE for folder in folders if (folder / SETTINGS_FILE).is_file()), None)
    if found is None or "GARIVINI_CONFIG" in os.environ:
        environment = {name: os.environ[name] for name in VARIABLES if name in os.environ}
        return load() if "GARIVINI_CONFIG" in environment else Configuration(environment=environment)
    return load(str(found))


def _read(name: str, source: str) -> bytes:
    reason = ""
    try:
        return Path(name).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not the name of a file"
    prefix = f"{source}: " if source else ""
    # The name may be a URL in the wrong variable.
    raise UsageError(f"{prefix}{shown_name(name)} cannot be read: {reason}")


def _parse_bool(name: str, text: str) -> bool:
    if text.lower() in _YES:
        return True
    if text.lower() in _NO:
        return False
    raise UsageError(f"{name} is {shown_value(text)}: write yes or no")


def _unknown_variables() -> tuple[str, ...]:
    """Return warnings about misspelt names. Other unknown variables may belong to the application."""
    unknown = (name for name in os.environ if name.startswith("GARIVINI_") and name not in VARIABLES)
    near = ((name, get_close_matches(name, VARIABLES, 1, 0.9)) for name in unknown)
    return tuple(
        f"the environment variable {name} is unknown: did you mean {match[0]}?"
        for name, match in sorted(near)
        if match
    )
