"""Errors that the user can fix: one line that names the file, the key, the value and the fix.

    TinyllamaError          exit code 2
    ├── RecipeError         a recipe or an override: unknown key, wrong type, impossible value
    ├── InputError          a file or folder given by the user: missing, damaged, empty, of the wrong kind
    ├── MissingExtraError   an optional package is not installed
    └── RunStoppedError     a run stopped early with its state saved; the same command resumes it; its own exit code
        └── LostRankError   a rank of a distributed run is gone or hangs; exit code 69

Any other exception that reaches the top is a bug and keeps its traceback.
"""

LOST_RANK_EXIT_CODE = 69  # EX_UNAVAILABLE of sysexits.h


class TinyllamaError(Exception):
    """The user can fix this. The message is one line; the process ends with `exit_code`."""

    exit_code = 2


class RecipeError(TinyllamaError):
    """A recipe or an override asks for something that does not exist or is impossible."""


class InputError(TinyllamaError):
    """A file or folder given by the user is missing, damaged, empty or of the wrong kind."""


class MissingExtraError(TinyllamaError):
    """An optional package is needed; the message says how to install it."""


class RunStoppedError(TinyllamaError):
    """A run stopped early, on request or because it could not continue. The same command resumes it.

    Exit codes: 130 SIGINT, 143 SIGTERM, 75 (EX_TEMPFAIL of sysexits.h) its time limit, 69 a lost rank, 1 anything else.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class LostRankError(RunStoppedError):
    """A rank is gone or hangs, and this one cannot continue without it. `is_first`: this rank found out first."""

    def __init__(self, message: str, exit_code: int = LOST_RANK_EXIT_CODE, is_first: bool = True) -> None:
        super().__init__(message, exit_code)
        self.is_first = is_first
