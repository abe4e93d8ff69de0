"""``garivini functions schema``: the arguments of typed functions, for programs in other languages."""

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from garivini.cli.output import note, say
from garivini.errors import UsageError

if TYPE_CHECKING:
    from garivini.app import JobFunction

#: The exit status if the module cannot be imported, as that of ``garivini worker``.
_CONFIGURATION_ERROR = 78


@click.command()
@click.argument("module")
@click.argument("funcname", required=False)
def schema(module: str, funcname: str | None) -> None:
    """Print the JSON Schema of the arguments of each function of an application, or of FUNCNAME.

    MODULE is as for garivini worker. A program in any language that inserts a job gives it an argument of
    this form. x-unique and x-partition say which arguments make the unique key and the partition.

    \b
    Examples:
      garivini functions schema shop.jobs
      garivini functions schema jobs.py jobs.send_invoice
    """
    from garivini.app import Garivini  # slow to import, and other commands of the group do not need it
    from garivini.cli.loading import BrokenModuleError, load_app_or_worker, user_traceback

    try:
        app = load_app_or_worker(module)
    except BrokenModuleError as error:
        note(f"{module} cannot be imported\n{user_traceback(error.error)}")
        sys.exit(_CONFIGURATION_ERROR)
    if not isinstance(app, Garivini):
        raise UsageError(f"{module} has a Worker, whose functions take any bytes: there is no schema")
    if funcname is not None and funcname not in app.functions:
        names = ", ".join(app.functions)
        raise UsageError(f"{module} has no function {funcname}: it has {names}")
    functions = app.functions.values() if funcname is None else [app.functions[funcname]]
    say(json.dumps({function.name: _schema(function) for function in functions}, indent=2))


def _schema(function: "JobFunction[..., Any]") -> dict[str, Any]:
    made = function.definition
    found = made.arguments.schema()
    if made.unique is not None:
        found["x-unique"] = list(made.unique.names)
    if made.partition is not None:
        found["x-partition"] = list(made.partition.names)
    return found
