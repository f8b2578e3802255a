"""What came of running an application, whatever way it ended."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from perun_hpc.monitoring.application import Application

if TYPE_CHECKING:
    from perun_hpc.monitoring.child import Ended


class Result:
    """What the application left: a value or an exception, or how its process ended; the regions of this process, or
    what kept them from being recorded."""

    def __init__(
        self,
        ended: Ended | None = None,
        returned: Any = None,
        raised: BaseException | None = None,
        rank_data: bytes = b"",
        trouble: Exception | None = None,
        cpu_ns: int = 0,
    ) -> None:
        self.ended = ended
        self.returned = returned
        self.raised = raised
        self.rank_data = rank_data
        self.trouble = trouble
        self.cpu_ns = ended.cpu_ns if ended is not None else cpu_ns

    @property
    def failed(self) -> bool:
        """Whether the application says that it did not do its work."""
        if isinstance(self.raised, SystemExit):
            return self.raised.code not in (None, 0)
        return self.raised is not None or (self.ended is not None and self.ended.code != 0)

    def value(self) -> Any:
        """The application's result; raises what it raised."""
        if self.raised is not None:
            raise self.raised
        return self.returned if self.ended is None else self.ended.code


def call(app: Application, rank: Mapping[str, str] | None) -> Result:
    """Call a function; its regions are recorded as those of `rank`, of None they are not."""
    from perun_hpc.inject import rank as ranks
    from perun_hpc.inject import regions

    function: Callable[..., Any] | None = app.function
    assert function is not None
    returned: Any = None
    raised: BaseException | None = None
    trouble: Exception | None = None
    data, former = b"", ranks.current
    try:
        if rank is not None:
            regions.recorder.open()
            if rank["PERUN_SOCKET"]:  # whom windows ask
                ranks.current = ranks.Rank(rank)
    except Exception as error:
        trouble, rank = error, None
    before = os.times()
    try:
        returned = function(*app.args, **app.kwargs)
    except BaseException as error:  # a CancelledError or GeneratorExit, too: whoever called decides about it
        raised = error
    used_s = sum(os.times()[:4]) - sum(before[:4])  # of this process and the children that it waited for
    try:
        ranks.current = former
        if rank is not None:
            wrong = raised is not None and not (isinstance(raised, SystemExit) and raised.code in (None, 0))
            data = regions.snapshot(rank, "raised" if wrong else "exit")
            regions.recorder.close()
    except Exception as error:
        trouble = error
    return Result(returned=returned, raised=raised, rank_data=data, trouble=trouble, cpu_ns=int(used_s * 1e9))
