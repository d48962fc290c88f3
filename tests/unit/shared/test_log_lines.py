"""A log line is written at once, so lines of processes that share an output do not mix."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WRITE = """
import logging, structlog
from shared.logging import log_config
log_config.configure_logging("test")
structlog.get_logger().info("client.created", client_id=1)
logging.getLogger("library").info("a library's text")
log_config.write_log_lines([{"event": "message.sent", "message_id": n} for n in (1, 2)])
"""


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="pipes keep writes apart on Linux only")
@pytest.mark.parametrize("unbuffered", ["1", ""])
def test_each_log_line_is_a_single_write(unbuffered: str) -> None:
    reader, writer = os.pipe2(os.O_DIRECT)  # The reader receives each write separately.
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    subprocess.run(
        [sys.executable, "-c", WRITE], cwd=ROOT, env=environment, stdout=writer, check=True
    )
    os.close(writer)
    writes = list(iter(lambda: os.read(reader, 65536), b""))
    os.close(reader)
    assert len(writes) == 3
    for write in writes:
        assert write.endswith(b"\n")
        assert all(json.loads(line)["event"] for line in write.splitlines())
