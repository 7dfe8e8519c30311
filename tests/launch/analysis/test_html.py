"""report.html: that it is safe and opens offline, and what it shows."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from launch import collect
from launch.analysis.html import best_galleries, distinct_records, embedded_picture, run_pictures, shared_config
from launch.analysis.table import CollectedRun, Row

from ..made_up import HOSTILE


def test_the_report_shows_the_best_of_each_configuration_once(chem_sweep, capsys):
    assert collect.main([str(chem_sweep), "--against", "plain"]) == 0
    text = (chem_sweep / "collected" / "report.html").read_text()
    section = text.split("<h2>Best things</h2>")[1].split("<h2>")[0]
    titles = re.findall(r'<img alt="([^"]*)"', section)
    hostile = "&lt;script&gt;document.title=&#39;owned&#39;&lt;/script&gt;&amp;&#34;&#39;"
    assert titles == [
        *("plain2", "plain1", "plain0", "shared", hostile),
        *("mara2", "mara1", "mara0", "shared", hostile),
    ]
    assert HOSTILE not in text
    assert not re.search(r'(src|href)="(?!data:)', text)
    svgs = [base64.b64decode(one).decode() for one in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", section)]
    assert svgs[0] == "<svg><!--plain2--></svg>"
    assert len(svgs) == 10
    assert "<h2>Yield</h2>" in text
    assert (chem_sweep / "collected" / "yield.png").stat().st_size > 5000
    tests = text.split('id="tests"')[1].split("</table>")[0]
    assert "0.8/yield" in tests
    assert "method=mara" in tests
    assert "OB10" not in tests
    assert (
        (chem_sweep / "collected" / "tests.csv")
        .read_text()
        .startswith("key,label,difference,t,degrees,greater,less\n0.8")
    )
    table = (chem_sweep / "collected" / "table.csv").read_text()
    assert "0.8/OB10/n" in table
    assert "0.8/yield/n" not in table
    assert "40.00 (1 of 3)" in capsys.readouterr().out
    assert "(1 of 3)" in text


def browse(*arguments):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no headless browser (Debian: chromium; tools/services.sh installs it)")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=3000"]
    done = subprocess.run([browser, *flags, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def test_the_report_opens_offline_in_a_browser(sweep, tmp_path):
    collect.main([str(sweep)])
    page = sweep / "collected" / "report.html"
    text = page.read_text()
    assert HOSTILE not in text
    assert "&lt;script&gt;document.title" in text
    assert not re.search(r'(src|href)="(?!data:)', text)  # nothing is loaded from anywhere
    log = tmp_path / "net.json"
    done = browse(f"--log-net-log={log}", "--dump-dom", page.as_uri())
    assert "<title>Report</title>" in done.stdout  # the hostile script did not run
    assert "Uncaught" not in done.stderr
    (body,) = re.findall(r'id="results">.*?<tbody>(.*?)</tbody>', done.stdout, re.S)
    assert body.count("<tr>") == 2
    assert done.stdout.count("data:image/png;base64,") >= 2
    assert "3 runs did not finish" in done.stdout
    # Control: clicking sorts, so the script runs at all.
    control = tmp_path / "control.html"
    sort = "const h = document.querySelectorAll('#results th')[1]; h.click();"
    tell = "document.title = document.querySelector('#results td').textContent"
    click = f"<script>{sort}{tell}</script></body>"
    control.write_text(text.replace("</body>", click))
    assert "<title>mara</title>" in browse("--dump-dom", control.as_uri()).stdout


def collected(name, folder=None, **config):
    return CollectedRun(Path(folder or name), "llm", [f"seed={name}"], "finished", config=config)


def test_the_shared_configuration_is_what_no_run_changes():
    runs = [collected("0", a=1, b=2, c=3), collected("1", a=1, b=4)]
    assert shared_config(runs) == {"a": 1}
    assert shared_config(runs[:1]) == {"a": 1, "b": 2, "c": 3}
    assert shared_config([]) == {}


def test_runs_with_the_same_record_are_listed_together():
    runs = [collected(name) for name in "012"]
    for run, commit in zip(runs, "aba", strict=True):
        run.record = {"code": {"commit": commit}, "versions": {}, "hardware": {}, "pid": run.folder.name}
    blocks = distinct_records(runs)
    assert [(names, record["code"]["commit"]) for names, record in blocks] == [("0, 2", "a"), ("1", "b")]


def test_the_pictures_of_a_run_are_its_figure_and_its_packages(tmp_path):
    with_both, with_none = collected("0", tmp_path / "0"), collected("1", tmp_path / "1")
    (tmp_path / "0" / "report").mkdir(parents=True)
    for name in ("figure.png", "report/yield.png", "report/note.txt"):
        (tmp_path / "0" / name).write_bytes(b"content of " + name.encode())
    ((label, pictures),) = run_pictures([with_both, with_none])
    assert label == "seed=0"
    assert [(p["name"], p["title"]) for p in pictures] == [("figure", "figure"), ("yield", "Yield")]
    assert pictures == [embedded_picture(tmp_path / "0" / name) for name in ("figure.png", "report/yield.png")]
    assert base64.b64decode(pictures[0]["data"]) == b"content of figure.png"


def test_a_configuration_without_a_gallery_has_no_block():
    assert best_galleries([Row({"a": 1}, [collected("0")])]) == {}


def test_the_report_of_failures_alone(sweep):
    for number in (0, 1, 3):
        record = json.loads((sweep / str(number) / "run.json").read_text())
        (sweep / str(number) / "run.json").write_text(json.dumps({**record, "state": "failed", "traceback": None}))
    assert collect.main([str(sweep)]) == 1
    text = (sweep / "collected" / "report.html").read_text()
    assert "llm: 0 of 6 runs finished" in text
    assert "6 runs did not finish" in text
    assert text.count("<img") == 0
