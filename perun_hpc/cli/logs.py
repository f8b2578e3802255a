"""The log of a command: how much is written (`--log-lvl`), where (`--log-file`), and in what form.

Lines go to stderr or the file, never to stdout, which is the command's result. `logging` takes milliseconds to import:
a command that logs nothing unless asked (`monitor`, `launch`) does not pay for it.
"""

from __future__ import annotations

import sys

from perun_hpc.config import DEFAULT_LOG_LEVEL
from perun_hpc.errors import UsageError
from perun_hpc.process.stamp import FORM, is_the_journal

_OURS = "perun"


def begin(level: str | None, file: str | None) -> None:
    """Log from here on, in place of an earlier call's choice; None leaves the default (WARNING, stderr).

    Raises
    ------
    UsageError
        When the file cannot be written.
    """
    if file is None and (level or DEFAULT_LOG_LEVEL) == DEFAULT_LOG_LEVEL and "logging" not in sys.modules:
        return
    import logging

    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
        timed = not is_the_journal(2)
    else:
        from logging.handlers import WatchedFileHandler  # a file that was rotated away is opened again

        try:
            handler = WatchedFileHandler(file, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UsageError(f"--log-file {file}: {error.strerror}: name a file that can be written") from error
        timed = True
    form = f"{'%(asctime)s ' if timed else ''}%(levelname)s %(message)s"
    handler.setFormatter(logging.Formatter(form, FORM))
    handler.name = _OURS
    root = logging.getLogger()
    for earlier in [one for one in root.handlers if one.name == _OURS]:
        root.removeHandler(earlier)
        earlier.close()
    root.addHandler(handler)
    # Ours alone: what libraries have to say at the lower levels is not the user's.
    logging.getLogger("perun_hpc").setLevel(level or DEFAULT_LOG_LEVEL)


def seldom() -> None:
    """From here on a line that repeats is written once a minute, with how often it was: for what sweeps for ever."""
    import logging
    import threading

    from perun_hpc.process.log import Failures

    said: list[str] = []
    lately, alone = Failures(say=said.append), threading.Lock()

    def passes(record: logging.LogRecord) -> bool:
        with alone:
            said.clear()
            lately.say(record.getMessage())
            if said:
                record.msg, record.args = said[0], ()
            return bool(said)

    for handler in logging.getLogger().handlers:
        handler.addFilter(passes)


def note(level: str, text: str) -> None:
    """Log one line, where a log was begun."""
    if "logging" in sys.modules:
        import logging

        logging.getLogger("perun_hpc").log(logging.getLevelNamesMapping()[level], "%s", text)


def failure(text: str) -> None:
    """Log a command's error, which stderr shows anyway: in the file, if there is one; at DEBUG also where it arose."""
    if "logging" in sys.modules:
        import logging

        logger = logging.getLogger("perun_hpc")
        if any(one.name == _OURS and isinstance(one, logging.FileHandler) for one in logging.getLogger().handlers):
            logger.error("%s", text)
        logger.debug("where it arose:", exc_info=True)
