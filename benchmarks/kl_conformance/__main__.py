"""`python -m benchmarks.kl_conformance`: measure every KL setting of three trainers, exactly."""

import argparse
import contextlib
import math
import os
import sys
from datetime import date
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: all tensors are tiny

import torch

from benchmarks.kl_conformance.measure import (
    OLD,
    POLICY,
    REFERENCE,
    SEQUENCES,
    Comparison,
    Measurement,
    in_words,
    measure,
    verdict,
)
from benchmarks.kl_conformance.minimal_examples import minimal_examples
from benchmarks.kl_conformance.problem import (
    DIVERGENCES,
    LADDER_BETA,
    LADDER_REFERENCE,
    LADDER_REWARD,
    Optimum,
    targets,
)
from benchmarks.kl_conformance.settings import TRAINERS, all_settings, versions
from launch.analysis.marked_page import around, write_marked
from launch.runs.run_folder import one_line_errors

DESCRIPTION = """Measure every KL setting of TRL, verl and OpenRLHF in float64, with no sampling: all completions of a
small tabular policy are enumerated, the trainer's own function is called on them, and the expected gradient of its KL
term is compared with the exact gradients of the reverse and the forward KL, per token and per sequence, on and off
policy. Its update of reward and KL is followed to the optimum. A trainer that is not installed is left out."""

EPILOG = """examples:
  pip install --no-deps --target trainers verl openrlhf
  python -m benchmarks.kl_conformance --verl trainers --openrlhf trainers --page docs/kl.md
  python -m benchmarks.kl_conformance --examples            the minimal examples of what is installed"""

BEGIN, END = "<!-- measured -->\n", "<!-- end of what is measured -->"


def numbers(values: list[float]) -> str:
    """Numbers of two decimals without a leading zero."""
    return " ".join(f"{value:.2f}".lstrip("0") for value in values)


def cell(comparison: Comparison, name: str) -> str:
    """Relative distance to an exact gradient, and the cosine with it."""
    distance, cosine = comparison.distance[name], comparison.cosine[name]
    if comparison.equals == name:
        return "**0**, 1"
    return f"{distance:.2f}, " + ("-" if math.isnan(cosine) else f"{cosine:.2f}")


def optimum_cell(optimum: Optimum) -> str:
    """The probabilities of an optimum, and its total variation to the target of either direction."""
    return f"{numbers(optimum.probability.tolist())}; {optimum.to_reverse:.3f}, {optimum.to_forward:.3f}"


def verdict_table(measured: dict[str, list[Measurement]]) -> str:
    """The table of what each setting is."""
    lines = [
        "| | setting | what it says | gradient, on policy | off policy | optimum; to reverse, to forward "
        "| is it KL(policy, reference)? |",
        "|---|---|---|---|---|---|---|",
    ]
    for package, rows in measured.items():
        for number, row in enumerate(rows, 1):
            setting = row.setting
            name = f"{setting.name} ({setting.note})" if setting.note else setting.name
            on, off = in_words(row.on_policy.equals), in_words(row.off_policy.equals)
            best = optimum_cell(row.optimum) if row.optimum else ""
            label = f"{TRAINERS[package]} {number}"
            lines.append(f"| {label} | {name} | {setting.claim} | {on} | {off} | {best} | {verdict(row)} |")
    return "\n".join(lines)


def number_table(measured: dict[str, list[Measurement]]) -> str:
    """The table of distances and cosines, and the functions that are called."""
    lines = [
        "| | " + " | ".join([*DIVERGENCES, *(f"off policy: {name}" for name in DIVERGENCES), "functions"]) + " |",
        "|---" * (2 * len(DIVERGENCES) + 2) + "|",
    ]
    for package, rows in measured.items():
        for number, row in enumerate(rows, 1):
            cells = [cell(side, name) for side in (row.on_policy, row.off_policy) for name in DIVERGENCES]
            lines.append(f"| {TRAINERS[package]} {number} | {' | '.join(cells)} | {row.setting.where} |")
    return "\n".join(lines)


def largest_terms() -> str:
    """How near the enumerated problem comes to the clamps."""
    policy, ref, old = (SEQUENCES.token_logp(logits)[SEQUENCES.mask] for logits in (POLICY, REFERENCE, OLD))
    log_u = torch.cat([policy - ref, old - ref])
    k2, k3, weight = log_u**2 / 2, (-log_u).exp() + log_u - 1, (policy - old).exp()
    largest = (float(term.max()) for term in (log_u.abs(), k2, k3, weight))
    return "largest |log(pi/ref)| {:.1f}, k2 {:.1f}, k3 {:.1f} and weight pi/pi_old {:.1f}".format(*largest)


def examples_text(packages: list[str]) -> str:
    """The minimal examples of some trainers, with what they print."""
    parts = []
    for example in minimal_examples():
        if example.trainer in packages:
            _, printed = example.run()
            title = f"**{TRAINERS[example.trainer]}: {example.title}**"
            parts.append(f"{title}\n\n```python\n{example.code}```\n\n```text\n{printed}```")
    return "\n\n".join(parts)


def report(measured: dict[str, list[Measurement]], found: dict[str, str], missing: dict[str, str]) -> str:
    """Everything that the command writes into the page."""
    count = sum(len(row.setting.losses) for rows in measured.values() for row in rows)
    names = ", ".join(f"{TRAINERS[package]} {version}" for package, version in found.items())
    goals = "; ".join(f"{name} KL {numbers(target.tolist())}" for name, target in targets().items())
    parts = [
        f"Measured on {date.today():%-d %B %Y} with {names}: {sum(map(len, measured.values()))} settings, "
        f"{count} combinations of names."
        + "".join(f" {TRAINERS[package]} is left out: it is not installed." for package in missing),
        verdict_table(measured),
        f"Optimum: where reward and KL lead from the reference {numbers(LADDER_REFERENCE.tolist())} of completions "
        f"of 1, 2, 3 and 3 tokens, with rewards {numbers(LADDER_REWARD.tolist())} and beta {LADDER_BETA}, and the "
        f"total variation between it and the targets of `core.targets` ({goals}).",
        "## Numbers",
        "Relative distance to each exact gradient, and the cosine with it. In bold what is equal, to 1e-10. In the "
        f"enumerated problem no clamp acts: {largest_terms()}.",
        number_table(measured),
        "## Minimal examples",
        "The expected gradient is that which the name or the documentation says, the found one that of the trainer. "
        "The programs are in `benchmarks/kl_conformance/examples` and run as they are where the trainer can be "
        "imported; `python -m benchmarks.kl_conformance --examples` runs them with stand-ins.",
        examples_text(list(measured)),
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, measure, and print or write the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kl_conformance",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for package in ("verl", "openrlhf"):
        text = f"where `pip install --no-deps --target FOLDER {package}` wrote it (default: on the path)"
        parser.add_argument(f"--{package}", type=Path, metavar="FOLDER", help=text)
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the result into this page")
    parser.add_argument("--examples", action="store_true", help="run the minimal examples and nothing else")
    options = parser.parse_args(arguments)
    if options.page:
        with one_line_errors("kl_conformance: --page"):
            around(options.page, BEGIN, END)  # before the work
    folders = {"verl": options.verl, "openrlhf": options.openrlhf}
    with contextlib.redirect_stdout(sys.stderr):  # what the trainers print when they are imported
        settings, missing = all_settings(folders)
    for line in missing.values():
        print(f"kl_conformance: left out: {line}", file=sys.stderr)
    if not settings:
        return 1
    if options.examples:
        print(examples_text(list(settings)))
        return 0
    measured: dict[str, list[Measurement]] = {}
    for package, rows in settings.items():
        for setting in rows:
            print(f"{TRAINERS[package]}: {setting.name}", file=sys.stderr)
            measured.setdefault(package, []).append(measure(setting))
    text = report(measured, versions(list(settings), folders), missing)
    if options.page:
        with one_line_errors("kl_conformance: --page"):
            write_marked(options.page, BEGIN, END, f"\n{text}\n")
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
