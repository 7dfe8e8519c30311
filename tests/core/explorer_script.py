"""The explorer's own script, run by node or a headless browser, and what core computes of the same problem."""

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from core.mara import anchor_reference, augment_reward, select_anchor
from core.small_problem import Problem
from core.stats import effective_modes
from core.targets import (
    forward_crossover_beta,
    forward_kl_target,
    reverse_crossover_beta,
    reverse_kl_target,
    reverse_log_ratio,
)
from tests.browser import Page, find_browser

HOME = Path(__file__).resolve().parents[2]
DOCS = HOME / "docs" / "explorer.html"
SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
LEVELS, DIRECTIONS = ("off", "sequence", "answer"), ("reverse", "forward")
needs_engine = pytest.mark.skipif(
    not (shutil.which("node") or find_browser()),
    reason="neither node nor a headless browser (Debian: nodejs, chromium)",
)
needs_browser = pytest.mark.skipif(
    find_browser() is None, reason="no headless browser (Debian: chromium; tools/services.sh installs it)"
)
ENCODE = "(key, x) => typeof x === 'number' && !Number.isFinite(x) ? String(x) : x"  # -Infinity is not in JSON


def run_script(expression, data, tmp_path, page=None):
    """The value of an expression of `input` after the scripts of the page, all but the last, which needs the page."""
    scripts = "\n".join(SCRIPT.findall(page or DOCS.read_text("utf-8"))[:-1])
    code = f"{scripts}\nconst input = {json.dumps(data)};\nconst output = JSON.stringify({expression}, {ENCODE});"
    if shutil.which("node"):
        file = tmp_path / "script.js"
        file.write_text(f"{code}\nprocess.stdout.write(output);")
        done = subprocess.run(["node", file], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
    empty = tmp_path / "empty.html"
    empty.write_text("<!DOCTYPE html><title>empty</title>")
    with Page(empty) as browser:
        return json.loads(browser.evaluate(f"(() => {{ {code} return output; }})()"))


def exact_numbers(given, pairs=True):
    """What the page shows of a problem, by core; without what is of pairs of outcomes, where there are many."""
    reward, ref = (torch.tensor(given[name], dtype=torch.float64) for name in ("reward", "ref"))
    logp, beta, threshold = ref.log(), given["beta"], given["threshold"]
    problem = Problem(reward, ref, beta, threshold, given["entropy"], tuple(given["answers"]))
    good = select_anchor(reward, logp, threshold)[1]
    optimum, modes = {}, {}
    for level in LEVELS:
        mass = {"mass_logp": problem.mass_logp(good)} if level == "answer" else {}
        shaped, changed = reward, (reward, logp)
        if level != "off":
            shaped = augment_reward(reward, logp, beta=beta, threshold=threshold, **mass)
            changed = anchor_reference(reward, logp, threshold=threshold, **mass)
        optimum[f"reverse {level}"] = reverse_kl_target(logp, shaped, beta, given["entropy"])
        optimum[f"forward {level}"] = forward_kl_target(changed[1], changed[0], beta)
    for name, target in optimum.items():
        share = target.masked_fill(~good, -torch.inf).softmax(-1)
        modes[name] = float(effective_modes(share)) if good.any() else None
    names = (f"{direction} {level}" for direction in DIRECTIONS for level in LEVELS)
    return {
        "good": good.tolist(),
        "optimum": {name: optimum[name].tolist() for name in names},
        "modes": modes,
        "pairs": pair_numbers(reward, logp, beta, given["entropy"]) if pairs else [],
    }


def largest_difference(page, exact):
    """The largest difference of two numbers that stand in the same place, over the size of what is above 1."""
    if isinstance(exact, dict):
        assert page.keys() == exact.keys()
        return max(largest_difference(page[key], exact[key]) for key in exact)
    if isinstance(exact, list):
        assert len(page) == len(exact)
        return max(map(largest_difference, page, exact), default=0.0)
    if exact is None or isinstance(exact, bool):
        assert page is exact
        return 0.0
    page = float(page)
    if not math.isfinite(exact):
        return 0.0 if page == exact else math.inf
    return abs(page - exact) / max(1.0, abs(exact))


def pair_numbers(reward, logp, beta, entropy):
    """Both crossovers and the log ratio of each pair of outcomes; None for what needs both on the support."""
    rows = []
    for i in range(len(reward)):
        for j in range(i):
            pair = logp[i], logp[j], reward[i], reward[j]
            row = [float(reverse_crossover_beta(*pair)), None, None]
            if logp[i] > -math.inf and logp[j] > -math.inf:
                row[1] = float(forward_crossover_beta(logp, reward, i, j))
                row[2] = float(reverse_log_ratio(*pair, beta, entropy))
            rows.append(row)
    return rows
