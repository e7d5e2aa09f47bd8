"""What can go wrong in a way the user can mend: one line that names the file, the key, the value and the mend.

    TinyllamaError          exit code 2
    ├── RecipeError         a recipe or an override: unknown key, wrong type, impossible value
    ├── InputError          a file or folder given by the user: missing, damaged, empty, of the wrong kind
    ├── MissingExtraError   an optional package is not installed
    └── RunStoppedError     a run ended before its end, with its state saved; the same command goes on; its own exit code
        └── LostRankError   a process of a run of several is gone or hangs; exit code 69

Anything else that reaches the top is a fault of ours and keeps its traceback.
"""

LOST_RANK_EXIT_CODE = 69  # EX_UNAVAILABLE of sysexits.h


class TinyllamaError(Exception):
    """The user can mend this. The message is one line; the process ends with `exit_code`."""

    exit_code = 2


class RecipeError(TinyllamaError):
    """A recipe or an override asks for something that does not exist or cannot be."""


class InputError(TinyllamaError):
    """A file or folder given by the user is missing, damaged, empty or of the wrong kind."""


class MissingExtraError(TinyllamaError):
    """An optional package is needed; the message has the line that installs it."""


class RunStoppedError(TinyllamaError):
    """A run ended before its end: asked to, or because it could not go on. The same command takes it up again.

    Exit codes: 130 SIGINT, 143 SIGTERM, 75 (EX_TEMPFAIL of sysexits.h) its time limit, 69 a lost rank, 1 anything else.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class LostRankError(RunStoppedError):
    """A rank is gone or hangs, and this one cannot go on without it. `is_first`: this rank found it out."""

    def __init__(self, message: str, exit_code: int = LOST_RANK_EXIT_CODE, is_first: bool = True) -> None:
        super().__init__(message, exit_code)
        self.is_first = is_first
