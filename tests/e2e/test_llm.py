"""The commands that a user types, with the shipped defaults."""

import json
import re

import pytest

from .typed import llm


@pytest.mark.slow
@pytest.mark.parametrize("directions", ["forward", pytest.param("reverse,forward", marks=pytest.mark.long)])
def test_the_demo_collapses_without_mara_and_balances_with_it(tmp_path, directions):
    out, _ = llm(
        *("-m", "experiment=one_two", f"objective.direction={directions}", "transform=identity,mara"),
        f"hydra.sweep.dir={tmp_path}",
    )
    runs = {}
    for number in range(2 * len(directions.split(","))):
        folder = tmp_path / str(number)
        names = {path.name for path in folder.iterdir()} - {"code.patch", "checkpoints", ".lock"}
        files = {"config.yaml", "overrides.yaml", "run.json", "summary.json", "figure.png", "figure.svg", "policy"}
        assert names == files | {f"{name}.jsonl" for name in ("metrics", "timings", "samples")}
        overrides = (folder / "overrides.yaml").read_text()
        runs[tuple(re.findall(r"(?:direction|transform)=(\w+)", overrides))] = folder
    assert set(runs) == {(d, t) for d in directions.split(",") for t in ("identity", "mara")}
    for (_, transform), folder in runs.items():
        summary = json.loads((folder / "summary.json").read_text())
        shares = sorted((summary["share/1"], summary["share/2"]))
        rarer = shares[0] / summary["correct"]
        assert summary["correct"] >= 0.95
        assert (rarer >= 0.4) if transform == "mara" else (rarer <= 0.2)
        # Eq. 7 beside what is observed: the reference's ratio without MARA, none with it.
        assert summary["predicted_log_ratio"] == pytest.approx(0.0 if transform == "mara" else 1.95, abs=0.1)
        assert abs(summary["observed_log_ratio"] - summary["predicted_log_ratio"]) < 0.8
        last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["step"] == 119
        assert last["mara/good_share"] > 0.9
        if folder is runs["forward", "mara"]:
            assert last["weight/effective_sample_size"] > 30
            assert last["weight/capped_share"] == 0
    assert out.count("warning: collapse") == len(directions.split(","))
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert ("forward, mara" in out) == ("," in directions)  # a label says what varies


@pytest.mark.slow
@pytest.mark.long
def test_the_same_command_twice_is_bit_identical_and_another_seed_is_not(tmp_path):
    options = ("transform=mara", "objective.direction=forward", "steps=4", "evaluation_completions=64")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        llm(*options, f"seed={seed}", f"hydra.run.dir={tmp_path / name}")
    contents = {
        name: [(tmp_path / name / f"{f}.jsonl").read_bytes() for f in ("metrics", "samples")] for name in "abc"
    }
    assert contents["a"] == contents["b"]
    assert contents["a"] != contents["c"]
    weights = [(tmp_path / name / "policy" / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


@pytest.mark.slow
@pytest.mark.long
def test_compiled_decoding_draws_the_same(tmp_path):
    options = ("transform=mara", "steps=3", "sample_every=1", "evaluation_completions=64", "prompts_per_step=2")
    runs = {name: tmp_path / name for name in ("false", "true")}
    for name, folder in runs.items():
        out, _ = llm(*options, f"model.compile_decoding={name}", f"hydra.run.dir={folder}")
        assert ("compiling the decoding step of Qwen3Model" in out) == (name == "true")
        assert "not compiled" not in out
    texts = [
        [json.loads(line)["completion"] for line in (folder / "samples.jsonl").read_text().splitlines()]
        for folder in runs.values()
    ]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 3 * 2 * 64
    weights = [(folder / "policy" / "model.safetensors").read_bytes() for folder in runs.values()]
    assert weights[0] == weights[1]  # nothing else is compiled


@pytest.mark.slow
def test_a_trained_policy_takes_the_same_path_as_any_model(tmp_path):
    options = ("steps=2", "evaluation_completions=64", "transform=mara")
    llm(*options, f"hydra.run.dir={tmp_path / 'first'}")
    policy = tmp_path / "first" / "policy"
    llm(
        *options, f"model.name_or_path={policy}", "advantage=group_normalised", f"hydra.run.dir={tmp_path / 'second'}"
    )
    first, second = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("first", "second"))
    trained = {key: value for key, value in first.items() if key.startswith("share/") or key == "correct"}
    assert {key: second["base"][key] for key in trained} == trained  # the second run's base is the first run's policy


@pytest.mark.slow
def test_adaptive_beta_moves_towards_its_budget(tmp_path):
    llm("beta_schedule=adaptive", "beta_schedule.kl_target=5", "steps=4", f"hydra.run.dir={tmp_path / 'run'}")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["beta"] for row in rows] == pytest.approx([0.03 * 0.98**i for i in range(4)])  # KL far below it


@pytest.mark.slow
def test_dapo_draws_tied_groups_again_and_clips_its_second_update(tmp_path):
    options = ("method=dapo", "steps=2", "group_size=4", "prompts_per_step=4", "evaluation_completions=64")
    llm(*options, "update.epochs=2", f"hydra.run.dir={tmp_path / 'run'}")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    for row in rows:
        assert row["redraw/groups"] > row["redraw/tied_groups"] >= 0
        assert row["update/clipped_share"] >= 0
        assert row["beta"] == 0
    _, error = llm("transform=mara", "update.redraw=3", f"hydra.run.dir={tmp_path / 'no'}", status=1)
    assert "update.redraw: must be 0 with transform=mara, got 3" in error
