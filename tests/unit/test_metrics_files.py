"""The alert rules, the dashboard, the runbook and the table of series say what the code does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tasks_service.metrics.counting import Counter, Histogram
from tasks_service.metrics.series import SERIES, series_table
from tests.kit.pages import ROOT

FILES = ROOT / "docker/prometheus"
REQUIRED = "TASKS_TEST_PROMTOOL"
"""Set to `required`, as CI does, it makes a promtool that cannot be had a failure."""

OF_PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
"""What Prometheus's library serves of each process."""


def promtool(*arguments: str, directory: Path = FILES) -> str:
    """Run Debian's promtool; skip the test where there is none, or fail where it is required."""
    if shutil.which("promtool") is None:
        reason = "NOT RUN: no promtool on this machine (Debian's package prometheus)"
        if os.environ.get(REQUIRED) == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    ended = subprocess.run(
        ["promtool", *arguments], cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def served_names() -> set[str]:
    """The names of all samples that any process serves."""
    names = set(OF_PROCESS)
    for series in SERIES:
        if isinstance(series, Counter):
            names.add(f"{series.name}_total")
        elif isinstance(series, Histogram):
            names |= {f"{series.name}_{part}" for part in ("bucket", "count", "sum")}
        else:
            names.add(series.name)
    return names


def named(query: str) -> set[str]:
    return set(re.findall(r"\b(?:tasks_service|process)_\w+", query))


def labels_of(name: str) -> set[str]:
    """The labels that a sample has; those of the scrape are on all."""
    base = re.sub(r"_(total|bucket|count|sum)$", "", name)
    found = [series for series in SERIES if series.name in (name, base)]
    own = set(found[0].labels) if found else set()
    return own | {"instance", "job"} | ({"le"} if name.endswith("_bucket") else set())


def misnamed_labels(query: str) -> set[str]:
    """Labels that a query selects by, of series that do not have them."""
    wrong = set()
    for name, selector in re.findall(r"((?:tasks_service|process)_\w+)\{([^}]*)\}", query):
        selected = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', selector)))
        wrong |= {f"{name}{{{label}}}" for label in selected - labels_of(name)}
    return wrong


def rules() -> list[dict[str, str]]:
    """Each rule's name, expression and place in the runbook."""
    text = (FILES / "alerts.yml").read_text(encoding="utf-8")
    found = []
    for part in text.split("- alert: ")[1:]:
        expression = re.search(r"expr: (?:>-\n)?(.*?)\n\s+(?:for|labels):", part, re.DOTALL)
        runbook = re.search(r"runbook: (\S+)", part)
        assert expression and runbook, part
        found.append({"name": part.split()[0], "expr": expression[1], "runbook": runbook[1]})
    return found


def queries() -> list[tuple[str, str]]:
    """The title of each panel of the dashboard, with its queries, and the queries of its variables."""
    dashboard: dict[str, Any] = json.loads((FILES / "dashboard.json").read_text(encoding="utf-8"))
    panels = [
        (panel["title"], target["expr"])
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]
    variables = [
        (one["name"], one["query"]) for one in dashboard["templating"]["list"] if one["type"] == "query"
    ]
    return panels + variables


def test_prometheus_takes_the_alert_rules_and_the_configuration(tmp_path: Path) -> None:
    promtool("check", "rules", "alerts.yml")
    for file in FILES.glob("*.yml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "metrics.key").write_text("a key of a test")
    promtool("check", "config", "prometheus.yml", directory=tmp_path)


def test_alerts_tell_of_their_troubles_and_of_no_others(tmp_path: Path) -> None:
    cases = (Path(__file__).parent / "alert_cases.yml").read_text(encoding="utf-8")
    (tmp_path / "cases.yml").write_text(cases.replace("RULES", str(FILES / "alerts.yml")))
    promtool("test", "rules", "cases.yml", directory=tmp_path)


def test_every_query_of_the_dashboard_names_series_that_are_served() -> None:
    found = queries()
    assert len(found) > 30
    for title, query in found:
        assert named(query), title
        assert named(query) <= served_names(), title
        assert not misnamed_labels(query), title


def test_every_query_of_the_dashboard_is_one(tmp_path: Path) -> None:
    """As rules, which promtool parses; what Grafana puts in is put in."""
    lines = ["groups:", "- name: dashboard", "  rules:"]
    for number, (_, query) in enumerate(queries()):
        text = query.replace("$__rate_interval", "1m").replace("$service", ".*").replace("$tool", ".*")
        if not text.startswith("label_values"):
            lines += [f"  - record: query_{number}", f"    expr: {json.dumps(text)}"]
    (tmp_path / "queries.yml").write_text("\n".join(lines))
    promtool("check", "rules", "queries.yml", directory=tmp_path)


def test_every_alert_names_series_that_are_served_and_has_its_entry_in_the_runbook() -> None:
    runbook = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    entries = re.findall(r"^## (\w+)$", runbook, re.MULTILINE)
    assert [rule["name"] for rule in rules()] == entries
    for rule in rules():
        assert named(rule["expr"]) <= served_names(), rule["name"]
        assert not misnamed_labels(rule["expr"]), rule["name"]
        assert rule["runbook"] == f"docs/runbook.md#{rule['name'].lower()}"
    for entry in runbook.split("\n## ")[1:]:
        assert [part in entry for part in ("**Means**", "**Look at**", "**Do**")] == [True] * 3, entry


def test_every_series_is_on_the_dashboard_or_in_an_alert() -> None:
    used = {name for _, query in queries() for name in named(query)}
    used |= {name for rule in rules() for name in named(rule["expr"])}
    unused = {series.name for series in SERIES if not any(name.startswith(series.name) for name in used)}
    assert unused == set()


def test_the_guide_has_the_table_of_all_series() -> None:
    """The table is `series_table()`; write it into the guide when this fails."""
    assert series_table() in (ROOT / "docs/guide-operators.md").read_text(encoding="utf-8")
