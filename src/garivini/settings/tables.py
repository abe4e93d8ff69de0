"""The tables of a settings file, ``garivini.toml``. No I/O."""

from typing import Literal

import msgspec

from garivini.databases.urls import without_password
from garivini.settings.decoding import decode_toml


class QueueRunnerTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The table ``[queue_runner]`` of a settings file. None: the key is missing."""

    lease: int | None = None
    watermark: int | None = None
    batch_max: int | None = None
    poll: float | None = None


class ControllerTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The table ``[controller]`` of a settings file."""

    max_calls: int | None = None
    drain: float | None = None


class InjectorTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The table ``[injector]`` of a settings file."""

    allow: list[str] | None = None
    max_arg: int | None = None
    rate: float | None = None
    calls: int | None = None
    json_args: bool | None = None


class WorkerTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The table ``[worker]`` of a settings file."""

    processes: int | None = None
    drain: float | None = None


class ScheduleTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A table ``[schedules.NAME]`` of a settings file."""

    funcname: str | None = None
    arg: str | None = None
    cron: str | None = None
    every: int | None = None
    zone: str | None = None
    priority: str | None = None
    flag: str | None = None
    missed: str | None = None
    missed_window: int | None = None
    overlap: str | None = None


class FunctionTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A table ``[functions.NAME]`` of a settings file."""

    lease: int | None = None
    deadline: int | None = None
    renews: bool | None = None
    envelope: Literal["json", "latin-1", "raw"] | None = None
    max_failures: int | None = None
    retention: int | None = None
    dead_retention: int | None = None
    max_running: int | None = None
    rate: str | None = None
    burst: int | None = None
    unique_scope: Literal["while_live", "while_live_or_dead"] | None = None
    unique_window: int | None = None
    on_duplicate: Literal["existing", "raise", "replace", "debounce", "one_more"] | None = None
    max_delay: int | None = None
    expires: int | None = None
    partition_max_running: int | None = None
    partition_rate: str | None = None
    partition_burst: int | None = None
    fair: bool | None = None
    coalesce_max: int | None = None
    coalesce_wait: int | None = None
    retry: str | None = None
    timeout: float | None = None
    cancel_grace: int | None = None


class TlsTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The table ``[tls]`` of a settings file: TLS to the Gearman servers."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    verify_host: bool | None = None


class LogTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The table ``[log]`` of a settings file."""

    format: Literal["text", "json"] | None = None
    verbose: bool | None = None


class Settings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A settings file, ``garivini.toml``."""

    def __repr__(self) -> str:
        """Return the values, with the databases as messages show them: without passwords."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        values["databases"] = [without_password(url) for url in self.databases]
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in values.items())})"

    databases: list[str] = []
    job_servers: list[str] = []
    queue_runner: QueueRunnerTable = msgspec.field(default_factory=QueueRunnerTable)
    controller: ControllerTable = msgspec.field(default_factory=ControllerTable)
    injector: InjectorTable = msgspec.field(default_factory=InjectorTable)
    worker: WorkerTable = msgspec.field(default_factory=WorkerTable)
    functions: dict[str, FunctionTable] = {}
    schedules: dict[str, ScheduleTable] = {}
    tls: TlsTable = msgspec.field(default_factory=TlsTable)
    log: LogTable = msgspec.field(default_factory=LogTable)


def parse_settings(text: bytes, name: str) -> Settings:
    """Return the settings in the text of a file.

    Raises:
        UsageError: it is not TOML, or has an unknown key or a wrong value. The message says which.

    """
    return decode_toml(text, Settings, name)
