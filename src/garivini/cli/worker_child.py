"""What a process of ``garivini worker`` does: imports the module, selects its functions, and runs them."""

import select
import ssl
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from garivini.cli.loading import BrokenModuleError, Speaker, load, user_traceback
from garivini.cli.output import note
from garivini.cli.project_files import project_folder, python_files
from garivini.cli.tls import warn_of_servers
from garivini.errors import UsageError
from garivini.keeper.supervised_child import CONFIGURATION_ERROR, SupervisedChild
from garivini.worker import Worker
from garivini.worker.file_changes import FileChanges, loaded_files

#: Seconds between two checks of the files of a module that cannot be used.
_CHECK_FILES: Final = 0.5


@dataclass(frozen=True)
class Selection:
    """The names of the functions that a worker runs, as globs such as ``shop.*``."""

    #: It runs the functions that match one of these, or if there are none, all.
    only: tuple[str, ...] = ()
    #: It does not run the functions that match one of these.
    exclude: tuple[str, ...] = ()

    def apply(self, worker: Worker) -> None:
        """Remove the other functions from a worker.

        Raises:
            UsageError: a glob of ``only`` matches no function, or no function is left.

        """
        for glob in self.only:
            if not any(fnmatchcase(name, glob) for name in worker.functions):
                raise UsageError(
                    f"--only {glob} matches no function: there are {', '.join(worker.functions)}"
                )
        for name in list(worker.functions):
            selected = not self.only or any(fnmatchcase(name, glob) for glob in self.only)
            if not selected or any(fnmatchcase(name, glob) for glob in self.exclude):
                del worker.functions[name]
        if not worker.functions:
            raise UsageError("--only and --exclude leave no function")


def run_child(
    target: str, child: SupervisedChild, selection: Selection, tls: ssl.SSLContext | None, speaker: Speaker
) -> None:
    """Run the functions of a module; end the process if that cannot be done."""
    reloads = child.replace_when.files
    if reloads:
        # A file that is saved twice in a second may have the same size. The bytecode of its first version
        # would then be taken for that of the second.
        sys.dont_write_bytecode = True
    try:
        found = load(target)
        selection.apply(found)
    except (UsageError, BrokenModuleError) as error:
        message = str(error)
        if isinstance(error, BrokenModuleError):
            message = f"{target} cannot be imported\n{user_traceback(error.error)}"
        if not reloads:
            speaker.report(message)
            sys.exit(CONFIGURATION_ERROR)
        note(message)
        note("waiting for a change of a file")
        _wait_for_change(target, child, error)
        return
    if tls:
        found.tls = found.tls or tls
        warn_of_servers(found.job_servers, found.tls)
    found.run(child)


def _wait_for_change(target: str, child: SupervisedChild, error: Exception) -> None:
    """Ask to be replaced when a file has changed. It returns then, or at the end of the parent."""
    changes = FileChanges(child.started_ns)
    failed = list(_files_of(error))
    while not changes.found([*python_files(project_folder(target)), *loaded_files(), *failed]):
        if select.select([child.lifeline], [], [], _CHECK_FILES)[0]:
            return
    child.leave()


def _files_of(error: Exception) -> Iterator[str]:
    """Yield the files in which an import has failed. Their modules are not among the loaded ones."""
    if isinstance(error, BrokenModuleError):
        yield from (frame.filename for frame in traceback.extract_tb(error.error.__traceback__))
        if isinstance(error.error, SyntaxError) and error.error.filename is not None:
            yield error.error.filename
