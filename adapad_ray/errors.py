"""Exceptions whose message is written for the user."""


class BadRequestError(ValueError):
    """An invalid request. The message is one line: what is wrong, which value, and what would be right.

    It is raised before anything starts. The command prints the message and exits with code 2.
    """


class StorageError(RuntimeError):
    """The store of the results cannot be reached while a sweep runs; finished cells are kept."""


class WorkersLostError(RuntimeError):
    """No worker is left that could compute a cell; finished cells are kept."""


class UnreachableError(BadRequestError):
    """The model or data set is on the Hub, which cannot be reached, or in a file that does not exist."""
