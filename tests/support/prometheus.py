"""A real Prometheus server that scrapes a system under test, with the shipped rules."""

import subprocess
from pathlib import Path
from typing import Any

import requests
import yaml

from dev.stack.ports import free_port
from tests.support.programs import require_program
from tests.support.system import ROOT
from tests.support.waiting import wait_for

SHIPPED = ROOT / "deploy" / "prometheus"


class Prometheus:
    """Scrapes `target` (host:port) every half second, and evaluates all rules every second."""

    def __init__(self, directory: Path, target: str):
        directory.mkdir(parents=True)
        self.log = directory / "prometheus.log"
        config: dict[str, Any] = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "1s"}
        for name in config["rule_files"]:
            rules = yaml.safe_load((SHIPPED / name).read_text())
            for group in rules["groups"]:
                group.pop("interval", None)
            (directory / name).write_text(yaml.safe_dump(rules))
        config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}/api/v1"
        self.http = requests.Session()
        self.http.trust_env = False
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    require_program("prometheus"),
                    f"--config.file={directory}/prometheus.yml",
                    f"--storage.tsdb.path={directory}/data",
                    f"--web.listen-address={address}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_for(self.scraped, 20, "Prometheus has scraped the API")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def scraped(self) -> bool:
        try:
            return any(row["value"][1] == "1" for row in self.query('up{job="notifications"}'))
        except requests.RequestException:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the rows that the expression has now."""
        answer = self.http.get(f"{self.url}/query", params={"query": expression}, timeout=10)
        body = answer.json()
        assert body["status"] == "success", f"{expression}: {body}"
        rows: list[dict[str, Any]] = body["data"]["result"]
        return rows

    def rules(self) -> list[dict[str, Any]]:
        groups = self.http.get(f"{self.url}/rules", timeout=10).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]
