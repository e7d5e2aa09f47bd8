"""What can go wrong in a way the user can mend: one line that names the file, the key, the value and the mend.

    TinyllamaError          exit code 2
    ├── RecipeError         a recipe or an override: unknown key, wrong type, impossible value
    ├── InputError          a file or folder given by the user: missing, damaged, empty, of the wrong kind
    └── MissingExtraError   an optional package is not installed

Anything else that reaches the top is a fault of ours and keeps its traceback.
"""


class TinyllamaError(Exception):
    """The user can mend this. The message is one line; the process ends with `exit_code`."""

    exit_code = 2


class RecipeError(TinyllamaError):
    """A recipe or an override asks for something that does not exist or cannot be."""


class InputError(TinyllamaError):
    """A file or folder given by the user is missing, damaged, empty or of the wrong kind."""


class MissingExtraError(TinyllamaError):
    """An optional package is needed; the message has the line that installs it."""
