"""The table of optima: closed forms where there are some, and the page that it is written into."""

import math
from pathlib import Path

import pytest
import torch

from conf.schema.base import ConfigError
from core.losses import covariance
from core.targets import forward_kl_target, reverse_kl_target
from launch.analysis.marked_page import TABLE, read_marked
from launch.cli.groups import options
from tools.method_optima import (
    BETA,
    GROUP_REWARD,
    GROUPS,
    HEADER,
    PROBLEMS,
    SLICES,
    cells,
    kept_share,
    main,
    runs,
    settle,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods.md"


def run_of(method, kl):
    return next(run for run in runs([method]) if run.kl == kl)


@pytest.mark.parametrize(("method", "target"), [("rloo", reverse_kl_target), ("rloo_forward", forward_kl_target)])
def test_a_method_with_a_target_settles_at_it(method, target):
    logp, earlier = settle(run_of(method, "reverse" if method == "rloo" else "forward"))
    assert float((logp.exp() - earlier.exp()).abs().max()) < 1e-3
    for problem, where in zip(PROBLEMS, SLICES, strict=True):
        reward = torch.tensor(problem.reward, dtype=torch.float64)
        exact = target(problem.ref_logp, reward, BETA).exp()
        torch.testing.assert_close(logp[where].exp(), exact, atol=2e-4, rtol=2e-3)
    other = forward_kl_target if method == "rloo" else reverse_kl_target
    last = PROBLEMS[3]
    wrong = other(last.ref_logp, torch.tensor(last.reward, dtype=torch.float64), BETA).exp()
    assert float((logp[SLICES[3]].exp() - wrong).abs().max()) > 0.05  # control


def test_mara_over_answers_evens_out_answers_and_over_sequences_spellings():
    ratios = {}
    for method in ("mara_reverse", "mara_answers_reverse"):
        ratios[method] = [float(text) for text in cells(*settle(run_of(method, "reverse")))[1:]]
    assert ratios["mara_reverse"] == pytest.approx([1, 3, 1, 0.5], rel=0.02)
    assert ratios["mara_answers_reverse"] == pytest.approx([1, 1, 1, 0.5], rel=0.02)


def test_clip_cov_keeps_what_a_random_choice_keeps():
    run = run_of("clip_cov", "none")
    logp = torch.cat([problem.ref_logp for problem in PROBLEMS])
    kept = kept_share(run, logp)
    assert set(kept.unique().tolist()) > {1.0}
    dropped = (1 - kept).sum(-1)
    torch.testing.assert_close(dropped, dropped.round())  # one token of a group, or none
    row = int(dropped.argmax())
    advantage, own = run.objective.advantage(GROUP_REWARD[[row]]), logp[GROUPS.members[[row]]].unsqueeze(-1)
    value = covariance(own, advantage, torch.ones_like(own, dtype=torch.bool)).flatten()
    bounds = run.objective.policy_loss_options
    assert torch.equal(kept[row] < 1, (value > bounds["low"]) & (value < bounds["high"]))


def test_the_page_has_a_row_for_every_method_and_kl(tmp_path, capsys):
    rows = read_marked(PAGE, *TABLE).splitlines()
    assert "\n".join(rows[:2]) + "\n" == HEADER
    on_page = {tuple(cell.strip(" `") for cell in row.split("|")[1:3]) for row in rows[2:]}
    assert {name for name, _ in on_page} == set(options("llm", "method"))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table -->\n\nold\n<!-- end of the table -->\nafter\n")
    main([str(page), "method=best_of_n"])
    assert read_marked(page, *TABLE) == HEADER + capsys.readouterr().out
    assert read_marked(page, *TABLE).splitlines()[2] in rows  # the page has what the command prints
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("after\n")
    assert math.isclose(sum(PROBLEMS[0].reference), 1)


def test_a_page_without_a_place_for_the_table_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- table -->\n\n<!-- end of the table -->\nafter\n")  # no line between them
    with pytest.raises(ConfigError, match="must have the lines '<!-- table -->' and '<!-- end of the table -->'"):
        main([str(page), "method=best_of_n"])
    assert page.read_text().endswith("after\n")
