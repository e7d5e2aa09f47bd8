"""`tinyllama` and `python -m tinyllama`: the command line, with faults the user can mend as one line and exit code 2."""

import errno
import os
import sys

# Said before any library is imported: nothing of ours reports home.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# A lost connection between ranks is told by a line of ours, not by PyTorch's C++ frames.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

# A thread of PyTorch that waits spins a short while, then sleeps. With OpenMP's own long spin, two threads on two busy
# cores trained five times slower (tiny-2m, beside three other processes); on quiet cores it makes no difference.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
USER_CAN_MEND = {errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EPERM, errno.EDQUOT}


def main() -> None:
    """Run the command line of this process."""
    from tinyllama.commands.app import app
    from tinyllama.errors import LostRankError, TinyllamaError
    from tinyllama.log import is_speaker

    try:
        app()
    except LostRankError as error:
        _stop(str(error), error.exit_code, is_said=is_speaker() or error.is_first)
    except TinyllamaError as error:
        _stop(str(error), error.exit_code, is_said=is_speaker())
    except KeyboardInterrupt:
        _stop("interrupted; the same command goes on from here", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in USER_CAN_MEND:
            raise
        _stop(f"{error.filename or 'output'}: {error.strerror}", 2)


def _stop(message: str, exit_code: int, is_said: bool = True) -> None:
    if is_said:
        print(f"tinyllama: {message}", file=sys.stderr)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
