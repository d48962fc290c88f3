"""Ports on the loopback interface: processes side by side are given different ones."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = """
import json, sys
from dev.stack.ports import free_port
print(json.dumps([free_port() for _ in range(400)]), flush=True)
sys.stdin.read()
"""


def test_no_port_is_given_twice_before_its_server_listens() -> None:
    """Chosen at random, about nine of these would be."""
    command = [sys.executable, "-c", PROGRAM]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    given = [json.loads(each.stdout.readline()) for each in processes if each.stdout]
    for each in processes:
        each.communicate()
        assert each.returncode == 0
    first, second = given
    assert len(set(first)) == len(set(second)) == 400
    assert not set(first) & set(second)
