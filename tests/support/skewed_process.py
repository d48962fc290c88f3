"""Run a module as `python -m` does, with a local clock that is wrong by some seconds.

python -m tests.support.skewed_process 3600 worker scheduler
"""

import datetime as datetime_module
import runpy
import sys
import time
from typing import Any, Self

from pydantic_core import core_schema

REAL_DATETIME = datetime_module.datetime
SKEW = float(sys.argv[1])


class LikeReal(type):
    """Makes any datetime an instance of the class, as libraries in C create real ones."""

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, REAL_DATETIME)


class SkewedDatetime(REAL_DATETIME, metaclass=LikeReal):
    """A datetime whose present is wrong; pydantic treats it as a real one."""

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: object) -> Any:
        return core_schema.datetime_schema()

    @classmethod
    def now(cls, tz: datetime_module.tzinfo | None = None) -> Self:
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Self:
        return cls.fromtimestamp(time.time(), datetime_module.UTC).replace(tzinfo=None)


def skew_clock() -> None:
    real_time = time.time
    time.time = lambda: real_time() + SKEW
    changed: Any = datetime_module
    changed.datetime = SkewedDatetime


if __name__ == "__main__":
    skew_clock()
    module, sys.argv = sys.argv[2], sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
