"""Exit codes of the command, and the errors that lead to them."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from typing import ParamSpec

import typer

from adapad_ray.cli.output.terminal import print_error
from adapad_ray.errors import BadRequestError, StorageError, WorkersLostError
from adapad_ray.interrupts import interruptible, was_interrupted

DONE = 0
FAILED = 1
"""Some cells failed, the storage could not be written, or no worker could compute."""
BAD_REQUEST = 2
INTERRUPTED = 130
"""As shells report SIGINT; also after SIGTERM, and when the time of the sweep is over."""

P = ParamSpec("P")
_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def command(run: Callable[P, int]) -> Callable[P, None]:
    """Makes a subcommand of a function that returns an exit code.

    Expected errors are printed as one line on stderr and become the exit code; all others propagate.
    """

    @functools.wraps(run)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = _run(run, *args, **kwargs)
        except BadRequestError as error:
            print_error(str(error))
            code = BAD_REQUEST
        except KeyboardInterrupt:
            print_error("interrupted; finished cells are kept: run the same command again to continue")
            code = INTERRUPTED
        except (StorageError, WorkersLostError) as error:
            print_error(f"{error}; finished cells are kept: run the same command again to continue")
            code = FAILED
        except OSError as error:
            if error.errno not in _STORAGE_ERRORS:
                raise
            path = error.filename or "a file"
            print_error(
                f"{path} cannot be written ({error.strerror}); finished cells are kept: free some space and run the "
                "same command again"
            )
            code = FAILED
        raise typer.Exit(code)

    return guarded


def _run(run: Callable[P, int], *args: P.args, **kwargs: P.kwargs) -> int:
    try:
        with interruptible():
            return run(*args, **kwargs)
    except Exception as error:  # the close of something may fail because it was interrupted
        if was_interrupted(error):
            raise KeyboardInterrupt from error
        raise
