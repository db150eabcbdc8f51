"""The exceptions that a user is meant to read."""


class BadRequestError(ValueError):
    """A request that cannot be met: one sentence that says what was wrong, which value, and what would be right.

    Raised before anything is started; the command line prints it and exits with code 2.
    """


class StorageError(RuntimeError):
    """A store of results cannot be reached while a sweep is at work; what is finished is kept."""


class UnreachableError(BadRequestError):
    """What was asked for is on the model hub, which cannot be reached, or in a file that is not there."""
