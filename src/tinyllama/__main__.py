"""`tinyllama` and `python -m tinyllama`: the command line. An error that the user can fix is one line, exit code 2."""

import errno
import os
import sys

# Set before any library is imported: no telemetry.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# A lost connection between ranks is reported by our own line, without PyTorch's C++ stack.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

# A waiting thread spins only briefly, then sleeps. With OpenMP's default long spin, two threads on two busy cores trained
# five times slower (tiny-2m, with three other processes running); on idle cores it makes no difference.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

INTERRUPTED = 130  # 128 + SIGINT, as in shells
FIXABLE_BY_USER = {errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EPERM, errno.EDQUOT}


def main() -> None:
    """Run the command line of this process."""
    from tinyllama.commands.app import app
    from tinyllama.errors import LostRankError, TinyllamaError
    from tinyllama.log import is_speaker

    try:
        app()
    except LostRankError as error:
        _stop(str(error), error.exit_code, is_shown=is_speaker() or error.is_first)
    except TinyllamaError as error:
        _stop(str(error), error.exit_code, is_shown=is_speaker())
    except KeyboardInterrupt:
        _stop("interrupted; run the same command again to resume", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in FIXABLE_BY_USER:
            raise
        _stop(f"{error.filename or 'output'}: {error.strerror}", 2)


def _stop(message: str, exit_code: int, is_shown: bool = True) -> None:
    if is_shown:
        print(f"tinyllama: {message}", file=sys.stderr)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
