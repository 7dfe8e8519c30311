"""report.html: that it is safe and opens offline, and what it shows."""

import base64
import hashlib
import html
import json
import re
from pathlib import Path

import pytest

from launch import collect
from launch.analysis.html import (
    MAX_COLUMNS,
    best_galleries,
    distinct_records,
    embedded_picture,
    report_dates,
    report_script,
    report_title,
    run_pictures,
    shared_config,
)
from launch.analysis.table import CollectedRun, Row
from tests.browser import Page, find_browser

from ..made_up import HOSTILE
from .test_palette import luminance


def test_the_report_shows_the_best_of_each_configuration_once(chem_sweep, capsys):
    assert collect.main([str(chem_sweep), "--against", "plain"]) == 0
    text = (chem_sweep / "collected" / "report.html").read_text()
    section = text.split("<h2>Best things</h2>")[1].split("</section>")[0]
    titles = re.findall(r'<img alt="([^"]*)"', section)
    hostile = "&lt;script&gt;document.title=&#39;owned&#39;&lt;/script&gt;&amp;&#34;&#39;"
    assert titles == [
        *("plain2", "plain1", "plain0", "shared", hostile),
        *("mara2", "mara1", "mara0", "shared", hostile),
    ]
    assert HOSTILE not in text
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    svgs = [base64.b64decode(one).decode() for one in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", section)]
    assert svgs[0] == "<svg><!--plain2--></svg>"
    assert len(svgs) == 10
    assert "<h2>Yield</h2>" in text
    assert (chem_sweep / "collected" / "yield.png").stat().st_size > 5000
    tests = text.split('id="tests"')[1].split("</table>")[0]
    assert "yield at 0.8" in tests
    assert '<td class="text">MARA</td>' in tests
    assert "calls to the 10th" not in tests
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


def page_of(sweep, *arguments):
    """Collect a sweep, and return the path of its report and its text."""
    collect.main([str(sweep), *arguments])
    path = sweep / "collected" / "report.html"
    return path, path.read_text()


needs_browser = pytest.mark.skipif(
    find_browser() is None, reason="no headless browser (Debian: chromium; tools/services.sh installs it)"
)
SHOWN = "[...document.querySelectorAll('#results tbody.rows tr:not([hidden]) th')].map(cell => cell.textContent)"
COLUMN = "[...document.querySelectorAll('#results tbody.rows tr')].map(row => Number(row.cells[2].dataset.value))"
OUTSIDE = """[...document.querySelectorAll("body *")]
    .filter(element => !element.closest(".scroll > *, #results thead"))
    .filter(element => element.getBoundingClientRect().right > innerWidth + 0.5)
    .map(element => element.outerHTML.slice(0, 80))"""


def write_samples(sweep):
    """Samples of every finished run of the sweep: two steps, one completion of which is hostile and long."""
    for number in (0, 1, 3):
        rows = [
            {"step": step, "prompt": 0, "completion": text, "reward": 1.0}
            for step in (0, 3)
            for text in (f"run {number}, step {step}", HOSTILE, "a" * 500)
        ]
        (sweep / str(number) / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (390, True)])
def test_the_report_can_be_used_in_a_browser(sweep, width, dark):
    """Nothing is loaded, nothing hostile runs, nothing is wider than the window; it can be sorted and filtered."""
    write_samples(sweep)
    path, _ = page_of(sweep)
    with Page(path, width, dark=dark) as page:
        assert page.evaluate("document.title") == "llm: one_two, 20 November 2026"  # the hostile script did not run
        assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(OUTSIDE) == []
        assert page.evaluate(SHOWN) == ["vanilla", "MARA"]
        assert page.evaluate(COLUMN) == [0.905, 0.9]
        if width > 600:
            page.evaluate("document.querySelectorAll('#results th button')[2].focus()")
            page.press("Enter", 13)  # numbers begin with the largest
            assert page.evaluate(COLUMN) == [0.905, 0.9]
            page.press("Enter", 13)
            heads = "[...document.querySelectorAll('#results thead th')].map(one => one.getAttribute('aria-sort'))"
            assert page.evaluate(heads)[:4] == ["none", "none", "ascending", "none"]
        else:
            choose = "const sort = document.getElementById('sort'); sort.value = '2 up';"
            page.evaluate(f"{choose} sort.dispatchEvent(new Event('change'))")
        assert page.evaluate(COLUMN) == [0.9, 0.905]
        assert page.evaluate("document.querySelector('#results tbody.base tr th').textContent") == "base"
        page.evaluate("document.getElementById('filter').focus()")
        page.evaluate("document.execCommand('insertText', false, 'Mara')")
        assert page.evaluate(SHOWN) == ["MARA"]
        assert page.evaluate("document.getElementById('count').textContent") == "1 of 2 configurations"
        samples = "[...document.querySelectorAll('#samples > details')].map(one => one.checkVisibility())"
        assert page.evaluate(samples) == [False, True]
        assert page.requests == [path.as_uri()]
        assert page.errors == []
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(255, 255, 255)") is not dark


@needs_browser
@pytest.mark.slow
def test_control_other_scripts_and_requests_are_blocked_and_a_wide_page_is_noticed(sweep, tmp_path):
    _, text = page_of(sweep)
    added = '<div style="width: 3000px">wide</div><img src="http://127.0.0.1:9/a.png">'
    added = text.replace("</main>", f"{added}<script>document.title = 'owned'</script></main>")
    without_policy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", added)
    seen = []
    for content in (added, without_policy):
        (tmp_path / "control.html").write_text(content)
        with Page(tmp_path / "control.html") as page:
            assert page.evaluate("document.documentElement.scrollWidth") > 1280
            assert len(page.evaluate(OUTSIDE)) == 1
            loaded = "http://127.0.0.1:9/a.png" in page.requests and "blocked:csp" not in "".join(page.failures)
            seen.append((page.evaluate("document.title"), loaded))
    assert seen == [("llm: one_two, 20 November 2026", False), ("owned", True)]


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_text_has_enough_contrast(sweep, dark):
    """WCAG asks 4.5 of text; the colours are those of the page's variables."""
    path, _ = page_of(sweep)
    names = ("--front", "--soft", "--link", "--warn")
    with Page(path, dark=dark) as page:
        value = "getComputedStyle(document.documentElement).getPropertyValue"
        colours = {name: page.evaluate(f"{value}('{name}')").strip() for name in (*names, "--back", "--panel")}
    for back in ("--back", "--panel"):
        for name in names:
            darker, lighter = sorted(map(luminance, (colours[name], colours[back])))
            assert (lighter + 0.05) / (darker + 0.05) > 4.5, (name, back)


def test_the_report_loads_nothing_and_escapes_what_others_wrote(sweep):
    write_samples(sweep)
    _, text = page_of(sweep)
    assert HOSTILE not in text
    assert "&lt;script&gt;document.title" in text
    assert not re.search(r'(src|href)="(?!data:|#)', text)  # nothing is loaded from anywhere
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert script == report_script()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert html.unescape(policy[1]).startswith(f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
                                               f"script-src 'sha256-{digest}'")  # fmt: skip
    assert "3 runs did not finish" in text


def table_of(text, name):
    """Rows of a table as the text of their cells."""
    table = text.split(f'id="{name}"')[1].split("</table>")[0]
    rows = re.findall(r"<tr.*?</tr>", table, re.S)
    cells = (re.findall(r"<t[hd].*?</t[hd]>", row, re.S) for row in rows)
    return [[html.unescape(re.sub(r"<[^>]*>|\s+", " ", cell)).strip() for cell in row] for row in cells]


def test_the_table_has_the_base_and_the_differences_to_it(sweep):
    _, text = page_of(sweep)
    head, base, vanilla, mara = table_of(text, "results")
    assert head[:3] == ["configuration", "seeds", "share of correct completions"]
    assert len(head) <= MAX_COLUMNS
    assert (base[0], base[2]) == ("base", "0.500  ± 0.000")
    assert (vanilla[:2], mara[:2]) == (["vanilla", "2"], ["MARA", "1"])
    assert re.sub(r" +", " ", vanilla[2]) == "0.905 ± 0.005 +0.405"
    assert re.sub(r" +", " ", mara[2]) == "0.900 +0.400"
    assert "In these runs vanilla has the highest share of correct completions" in html.unescape(text)


def test_chosen_results_are_in_the_table_and_the_others_below(sweep):
    _, text = page_of(sweep, "--metrics", "entropy_nats")
    assert table_of(text, "results")[0] == ["configuration", "seeds", "entropy of the answers (nats)"]
    assert "share of correct completions" in table_of(text, "all-results")[0]
    assert len(table_of(text, "all-results")[0]) >= 4


def test_many_results_are_at_most_seven_columns(sweep):
    for number in (0, 1, 3):
        summary = json.loads((sweep / str(number) / "summary.json").read_text())
        extra = {f"own{n}": float(n + number) for n in range(9)} | {"same": 1.0}
        (sweep / str(number) / "summary.json").write_text(json.dumps(summary | extra))
    _, text = page_of(sweep)
    head = table_of(text, "results")[0]
    assert head == ["configuration", "seeds", *("share of correct completions", "entropy of the answers (nats)"),
                    *(f"own{n}" for n in range(3))]  # fmt: skip
    assert len(head) == MAX_COLUMNS
    assert {"own8", "same"} <= set(table_of(text, "all-results")[0])
    _, text = page_of(sweep, "--metrics", ",".join(f"own{n}" for n in range(9)))
    assert len(table_of(text, "results")[0]) == MAX_COLUMNS


def test_samples_can_be_read_side_by_side(sweep):
    write_samples(sweep)
    (sweep / "3" / "samples.jsonl").write_text("[]\n")
    _, text = page_of(sweep)
    section = text.split('id="samples"')[1].split("</section>")[0]
    vanilla, mara = section.split("</details>")[:2]
    assert [
        vanilla.index(word) for word in ("first step (1)", "run 0, step 0", "last logged step (4)", "run 0, step 3")
    ]
    assert "run 1" not in section  # of the first run of a configuration
    assert "samples.jsonl" in mara  # why there are none
    assert 'class="side"' not in mara


def test_molecules_are_drawn_in_the_report(chem_sweep):
    pytest.importorskip("rdkit")
    for number in range(6):
        rows = [{"step": step, "smiles": smiles, "score": 0.5} for step in (0, 1) for smiles in ("CCO", HOSTILE)]
        (chem_sweep / str(number) / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, text = page_of(chem_sweep)
    section = text.split('id="samples"')[1].split("</section>")[0]
    assert section.count('<img alt="molecule CCO" src="data:image/svg+xml;base64,') == 4  # 2 configurations, 2 steps
    assert HOSTILE not in text


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
    kind, _, data = pictures[0]["data"].partition(",")
    assert (kind, base64.b64decode(data)) == ("data:image/png;base64", b"content of figure.png")
    (tmp_path / "0" / "figure.svg").write_bytes(b"<svg/>")
    assert embedded_picture(tmp_path / "0" / "figure.png")["data"].startswith("data:image/svg+xml;base64,")


def test_a_configuration_without_a_gallery_has_no_block():
    assert best_galleries([Row({"a": 1}, [collected("0")])]) == {}


def test_the_report_of_failures_alone(sweep):
    for number in (0, 1, 3):
        record = json.loads((sweep / str(number) / "run.json").read_text())
        (sweep / str(number) / "run.json").write_text(json.dumps({**record, "state": "failed", "traceback": None}))
    assert collect.main([str(sweep)]) == 1
    text = (sweep / "collected" / "report.html").read_text()
    assert "0 of 6 runs finished" in text
    assert "No run has finished." in text
    assert "6 runs did not finish" in text
    assert text.count("<img") == 0


def test_the_title_names_experiments_and_days():
    runs = [collected(name) for name in "012"]
    assert (report_title(runs), report_dates(runs)) == ("llm", "")
    for run, name in zip(runs, ("synth/a", "synth/b", "synth/a"), strict=True):
        run.overrides = [f"experiment={name}"]
        run.record = {"started": "2026-11-20T23:59:00+00:00", "ended": "not a time"}
    assert (report_title(runs), report_dates(runs)) == ("llm: synth/a, synth/b", "20 November 2026")
    runs[2].record["ended"] = "2026-12-01T01:00:00+00:00"
    assert report_dates(runs) == "20 November 2026 to 1 December 2026"
    many = [collected(name) for name in "01234"]
    for run in many:
        run.overrides = [f"experiment={run.folder}"]
    assert report_title(many) == "llm: 0, 1, 2 and 2 more"
