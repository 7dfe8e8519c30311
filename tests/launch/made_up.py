"""Run folders that are written here instead of by a run."""

import json
from typing import Any

from omegaconf import OmegaConf

HOSTILE = "<script>document.title='owned'</script>&\"'"


def write_run(folder, config, state="finished", error=None, summary=None, rows=(), package="llm", **record):
    """A run folder with the given configuration, record, summary and rows of metrics.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    trace = None if error is None else f"Traceback\n  somewhere\n{error}"
    content: dict[str, Any] = {"state": state, "package": package, "command": ["python", "-m", package]}
    content |= {"started": "2026-11-20T10:00:00+00:00", "host": "here", "pid": 1, "earlier": []}
    content |= {"traceback": trace, "versions": {"torch": "2"}, "code": {}, "hardware": {}, **record}
    (folder / "run.json").write_text(json.dumps(content))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if state == "finished":
        (folder / "summary.json").write_text(json.dumps(summary or {}))


def write_llm_run(folder, seed, beta, transform, state="finished", error=None, **summary):
    """A run of four steps of three seconds' worth of timings, with the keys that a sweep over transforms varies."""
    config: dict[str, Any] = {"seed": seed, "steps": 4, "objective": {"beta": beta}, "resume": "auto"}
    config["transform"] = {"name": transform} | ({"algorithm": "auto"} if transform == "mara" else {})
    rows = [{"step": s, "reward/raw": s + seed, "loss": None if s == 2 else beta * s} for s in range(4)]
    write_run(folder, config, state, error, summary, rows)
    timings = [{"step": s, "seconds": 2.0} for s in range(3)]
    (folder / "timings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in timings))


def write_chem_run(folder, seed, method):
    """A run with a gallery, one item of which all seeds share, and with a curve."""
    summary = {
        "0.8/yield": 100 * seed + 7 * (method == "mara") * (1 + seed**2),
        "0.8/OB1": 3,
        "0.8/OB10": None if seed else 40,
    }
    write_run(folder, {"seed": seed, "method": method}, summary=summary, package="chem")
    (folder / "report").mkdir()
    names = [(f"{method}{seed}", 0.9 + seed / 100), ("shared", 0.5), (HOSTILE, 0.1)]
    items = [{"name": n, "value": v, "caption": f"{v:.2f} {n}", "svg": f"<svg><!--{n}--></svg>"} for n, v in names]
    (folder / "report" / "x.gallery.json").write_text(json.dumps({"title": "Best things", "items": items}))
    calls = [0, 10, 20, 25 + seed]
    content = {"title": "Yield", "x": "calls", "series": {"good": [calls, [0, seed, 2 * seed, 50]]}}
    (folder / "report" / "x.curves.json").write_text(json.dumps(content))


def _record(folder, **changes):
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**content, **changes}))


DAMAGES = {  # what may be wrong with the files of a finished run
    "truncated record": lambda run: (run / "run.json").write_bytes((run / "run.json").read_bytes()[:40]),
    "empty record": lambda run: (run / "run.json").write_bytes(b""),
    "record that is a list": lambda run: (run / "run.json").write_text("[]"),
    "record that is nested": lambda run: (run / "run.json").write_text("[" * 100_000),
    "foreign record": lambda run: (run / "run.json").write_text('{"state": "finished"}'),
    "record of another state": lambda run: _record(run, state="asleep"),
    "record with a traceback of another type": lambda run: _record(run, traceback=["a"]),
    "record with a command of another type": lambda run: _record(run, command=[1, None]),
    "record without a package": lambda run: _record(run, package=None),
    "record that is a folder": lambda run: ((run / "run.json").unlink(), (run / "run.json").mkdir()),
    "metrics that are bytes": lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\xfe\x00garbage\n"),
    "metrics that are zeros": lambda run: (run / "metrics.jsonl").write_bytes(bytes(4096) + b"\n"),
    "metrics that are a list": lambda run: (run / "metrics.jsonl").write_text("[1]\n"),
    "metrics of another type": lambda run: (run / "metrics.jsonl").write_text('{"step": "x"}\n'),
    "metrics without a step": lambda run: (run / "metrics.jsonl").write_text('{"step": null, "loss": 1}\n'),
    "summary that is a list": lambda run: (run / "summary.json").write_text("[1, 2]"),
    "summary that is missing": lambda run: (run / "summary.json").unlink(),
    "summary that is too large": lambda run: (run / "summary.json").write_text(f'{{"a": 1{"0" * 400}}}'),
    "configuration that is a list": lambda run: (run / "config.yaml").write_text("[1]"),
    "configuration that is binary": lambda run: (run / "config.yaml").write_bytes(b"\x00\xff"),
    "configuration that is empty": lambda run: (run / "config.yaml").write_bytes(b""),
    "overrides that are a mapping": lambda run: (run / "overrides.yaml").write_text("a: 1"),
}
