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
    content |= {"started": "2026-11-20T10:00:00+00:00"}
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
