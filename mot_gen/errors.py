"""InputError: what the user gave cannot be used. The command line prints it as one line and exits with code 2.

`require` and `expect` raise it where something is not so. `nearest`, `one_line`, `with_name` and `cause` help to write
its message. Beside it stand the errors that end a run, and UntaughtWarning.
"""


class InputError(ValueError):
    """Bad input: the message names the file or field, the value and the remedy, in one line."""


class Interrupted(Exception):
    """Stopped on request after a checkpoint was written; the command line exits with code 3."""


class Diverged(RuntimeError):
    """Training went wrong beyond hope; the command line exits with code 1 and one line."""


class ProcessLost(RuntimeError):
    """A process of the run is gone or does not answer; the command line exits with code 1 and one line."""


class UntaughtWarning(UserWarning):
    """A prompt names what a checkpoint was never taught. The command line prints it as one line."""


def require(ok: object, message: str) -> None:
    """InputError with this message, unless `ok`."""
    if not ok:
        raise InputError(message)


def expect(ok: object, message: str, got: object) -> None:
    """InputError with this message and what was found instead, unless `ok`."""
    if not ok:
        raise InputError(f"{message}, got {got!r:.60}")


def nearest(name: str, allowed) -> str:
    """`"; did you mean 'x'?"` for the closest of the allowed names, else `"; one of: ..."`. `"; there is none"` where
    none is allowed."""
    import difflib

    allowed = sorted(map(str, allowed))
    if not allowed:
        return "; there is none"
    close = difflib.get_close_matches(str(name), allowed, n=1)
    if not close:  # it may be spelt in capitals
        spelt = {each.lower(): each for each in allowed}
        close = [spelt[each] for each in difflib.get_close_matches(str(name).lower(), spelt, n=1)]
    return f"; did you mean {close[0]!r}?" if close else f"; one of: {', '.join(allowed)}"


def one_line(error: BaseException) -> str:
    """What an error says, in one printable line; the name of its class where it says nothing."""
    text = " ".join(str(error).split())
    return "".join(char if char.isprintable() else "?" for char in text) or type(error).__name__


def with_name(name: str, error: BaseException) -> str:
    """What an error says, behind the name of what it is about unless it says that name itself."""
    reason = str(error)
    if name in reason:
        return reason
    return f"{name}: {reason}"


def cause(error: BaseException) -> str:
    """Why a file could not be read or written: what the system says of an OSError, else all that the error says."""
    return getattr(error, "strerror", None) or one_line(error)
