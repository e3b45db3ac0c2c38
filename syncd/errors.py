"""The exception tree. Every message is one line: what, where, and what to do."""


class SyncdError(Exception):
    """Anything that syncd refuses or fails at; `str()` is fit for a user."""


class ConfigError(SyncdError):
    """A configuration that cannot be used; `problems` has one line for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class KernelError(SyncdError):
    """The kernel refused a request; `errno` is its answer, `request` what we asked."""

    def __init__(self, message: str, errno: int = 0, request: str = "") -> None:
        super().__init__(message)
        self.errno = errno
        self.request = request


class RecordError(SyncdError):
    """Bytes that are not a flow or an expectation."""


class FrameError(SyncdError):
    """A datagram that is refused; `reason` is the counter it belongs to.

    Reasons: malformed, version, and (with security) auth, replay.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ControlError(SyncdError):
    """A command that cannot be carried out; `status` is the exit status to give."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status
