"""docs/extending.md: its examples run as a reader would run them, and the files that it lists are enough."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from ..commands import ROOT, module_words, run_module

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ROOMS = ("conf", "core", "didactic", "launch", "llm", "chem", "hydra_plugins")


def write_files(section, folder):
    """Save the section's files: the blocks that begin with a comment that names one."""
    for language, text in BLOCK.findall(SECTIONS[section]):
        named = re.search(r"\A(?:# @package _global_\n)?# (\S+\.(?:py|yaml))\n", text)
        if language in ("python", "yaml") and named:
            path = folder / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def commands(section):
    shell = [text for language, text in BLOCK.findall(SECTIONS[section]) if language == "sh"]
    return [line for text in shell for line in text.splitlines()]


def run(command, folder, home=ROOT, status=0, end="", **options):
    """Run `python ...` from a folder with the rooms of `home`; returns its standard output and standard error."""
    path = os.pathsep.join([str(folder), str(home)])
    if command.startswith(("mara ", "python -m ")):
        words = [*module_words(command), f"hydra.run.dir=run{end}"]
        done = run_module(*words, folder=folder, status=status, PYTHONPATH=path)
    else:
        environment = os.environ | {"PYTHONPATH": path}
        words = [sys.executable, *shlex.split(command)[1:]]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=800)
        assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


def run_all(section, folder, home=ROOT):
    for number, command in enumerate(commands(section)):
        run(command, folder, home, end=str(number))
    return [folder / f"run{number}" for number in range(len(commands(section)))]


def cell(folder):
    (result,) = json.loads((folder / "summary.json").read_text())["cells"]
    return result


def last_metrics(folder):
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.fixture
def checkout(tmp_path):
    """A copy of the code, for changes to it."""
    home = tmp_path / "checkout"
    for room in ROOMS:
        shutil.copytree(ROOT / room, home / room, ignore=shutil.ignore_patterns("__pycache__"))
    return home


def insert(path, before, text):
    source = path.read_text(encoding="utf-8")
    assert source.count(before) == 1, (path, before)
    path.write_text(source.replace(before, text + before), encoding="utf-8")


def code_of(section, name):
    """The example's code without its first line and its imports, to be pasted into a module that has them."""
    (text,) = (text for _, text in BLOCK.findall(SECTIONS[section]) if text.startswith(f"# {name}\n"))
    return re.sub(r"^(# .*|import .*|from .*)\n", "", text, flags=re.MULTILINE).strip() + "\n\n\n"


def test_the_table_names_every_section_and_each_list_of_files_is_short():
    rows = re.findall(r"^\| \[(.+?)\]\(#(.+?)\) \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)
    assert [title.lower() for title in SECTIONS] == [title for title, *_ in rows]
    assert [anchor for _, anchor, *_ in rows] == [title.lower().replace(" ", "-") for title in SECTIONS]
    for title, _, path, files in rows:
        assert (path, files) != ("-", "-"), title
        assert len(re.findall("`", files)) <= 6, title  # three names in back ticks
        for name in re.findall(r"`([^`]+)`", files):
            if not re.search(r"NAME|PACKAGE", name):
                assert (ROOT / name).is_file(), name


@pytest.mark.slow
def test_a_divergence(tmp_path):
    write_files("A divergence", tmp_path)
    exact, sampled, llm = run_all("A divergence", tmp_path)
    assert cell(exact)["mode_shares"] == pytest.approx(cell(sampled)["mode_shares"], abs=2e-3)
    # The same divergence by another name: D_alpha at alpha = 1/2 is four times the squared Hellinger distance.
    alpha = "objective.direction=alpha objective.alpha=0.5 objective.beta=0.025"
    for end, options in (("_alpha", alpha), ("_reverse", "")):
        run(f"python -m didactic {options}", tmp_path, end=end)
    difference = [
        abs(cell(tmp_path / name)["entropy_nats"] - cell(exact)["entropy_nats"])
        for name in ("run_alpha", "run_reverse")
    ]
    assert difference[0] < 1e-4 < 1e-3 < difference[1]
    assert last_metrics(llm)["kl/squared_hellinger_nats"] >= 0
    own = "objective.direction=hellinger:squared_hellinger"
    message = run(f"python -m llm {own} transform=mara", tmp_path, status=1)[1]
    assert (
        "objective.direction: must be one of reverse, forward, jensen_shannon, alpha with transform=mara" in message
    )


@pytest.mark.slow
def test_a_divergence_built_in(tmp_path, checkout):
    record = code_of("A divergence", "hellinger.py").replace("def exact(", "def exact_squared_hellinger(")
    record = record.replace("exact=exact,", "exact=exact_squared_hellinger,")
    record += 'DIVERGENCES["squared_hellinger"] = squared_hellinger\n\n\n'
    insert(checkout / "core" / "divergences.py", "def find_divergence(", record)
    entry = '    "squared_hellinger": ("reward", "loss", "reference"),\n'
    insert(checkout / "core" / "rules.py", '    "alpha": ("reward", "loss", "reference"),\n', entry)
    run("python -m didactic objective.direction=squared_hellinger steps=20", tmp_path, checkout)
    assert last_metrics(tmp_path / "run")["kl/squared_hellinger_nats"] >= 0
    assert "squared_hellinger" in run("python -m didactic --help", tmp_path, checkout)[0]


@pytest.mark.slow
def test_a_reward_transform(tmp_path):
    write_files("A reward transform", tmp_path)
    didactic, llm = run_all("A reward transform", tmp_path)
    result = cell(didactic)
    assert result["mode_shares"] == pytest.approx(result["exact_mode_shares"], abs=2e-3)
    assert 0.6 < result["mode_shares"][0] < 0.9  # MARA: 0.5, without a transform: 0.96
    assert last_metrics(llm)["reward/augmented"] != last_metrics(llm)["reward/raw"]
    wrong = " ".join(commands("A reward transform")[0].split()).replace("strength=0.5", "strength=half")
    error = run(wrong, tmp_path, status=1, end="_wrong")[1]
    assert error == "didactic: transform: option strength of TemperedMara must be a number, got 'half'\n"


@pytest.mark.slow
def test_a_reward_transform_built_in(tmp_path, checkout):
    function = """def tempered(reward, ref_seq_logp, *, beta, threshold, strength, valid=None):
    good_from = threshold(reward, valid)
    reward = augment_reward(reward, ref_seq_logp, beta=strength * beta, threshold=good_from, valid=valid)
    return Transformed(reward, ref_seq_logp)


"""
    transforms = checkout / "core" / "transforms.py"
    insert(transforms, "TRANSFORMS: dict", function)
    transforms.write_text(
        transforms.read_text() + 'TRANSFORMS["tempered"] = tempered\nINPUTS["tempered"] = ("threshold",)\n'
    )
    section = '''@option("transform", "tempered")
@dataclass
class TemperedConfig(TransformConfig):
    """MARA with a share of its correction."""

    name: str = "tempered"
    strength: float = key("share of MARA's correction", low=0, high=1)


'''
    insert(checkout / "conf" / "schema" / "objective.py", '@option("transform", "custom")\n', section)
    option = "defaults: [/schema/transform/tempered@_here_, _self_]\nstrength: 0.5\n"
    (checkout / "conf" / "shared" / "transform" / "tempered.yaml").write_text(option)
    command = "python -m didactic gradient=sampled transform=tempered transform.threshold.value=1"
    run(command, tmp_path, checkout)
    assert 0.6 < cell(tmp_path / "run")["mode_shares"][0] < 0.9
    error = run(f"{command} transform.strength=2", tmp_path, checkout, status=1, end="_wrong")[1]
    assert error == "didactic: transform.strength: must be finite and >= 0 and <= 1, got 2.0\n"


@pytest.mark.slow
def test_an_advantage(tmp_path):
    write_files("An advantage", tmp_path)
    didactic, llm = run_all("An advantage", tmp_path)
    result = cell(didactic)
    assert result["mode_shares"] == pytest.approx(result["exact_mode_shares"], abs=5e-3)
    assert last_metrics(llm)["advantage/std"] > 0


@pytest.mark.slow
def test_a_task(tmp_path):
    write_files("A task", tmp_path)
    assert len((tmp_path / "bare.py").read_text().splitlines()) <= 20
    (folder,) = run_all("A task", tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["base"]["correct"] < 0.12
    assert summary["correct"] > 0.95
    assert 0.4 < summary["share/1"] < 0.6
    assert 0.4 < summary["share/2"] < 0.6


@pytest.mark.slow
def test_a_reward(tmp_path):
    write_files("A reward", tmp_path)
    (folder,) = run_all("A reward", tmp_path)
    logged = last_metrics(folder)
    assert 0 < logged["reward/short"] < 1
    assert logged["reward/raw"] == pytest.approx(logged["reward/task"] + 0.1 * logged["reward/short"], abs=1e-6)


@pytest.mark.slow
def test_an_oracle_component(tmp_path):
    write_files("An oracle component", tmp_path)
    (folder,) = run_all("An oracle component", tmp_path)
    assert 0 < last_metrics(folder)["reward/raw"] < 1
    promised = re.search(r"`python score\.py` prints `(.*?)`", PAGE)
    assert promised is not None
    assert run("python score.py", tmp_path)[0].strip() == promised[1]


@pytest.mark.slow
def test_an_engine(tmp_path):
    write_files("An engine", tmp_path)
    didactic, llm = run_all("An engine", tmp_path)
    assert cell(didactic)["total_variation"] < 0.02
    assert last_metrics(llm)["grad_norm"] > 0


@pytest.mark.slow
def test_an_engine_built_in(tmp_path, checkout):
    write_files("An engine", checkout / "launch" / "engines")
    (checkout / "conf" / "shared" / "engine" / "sgd.yaml").write_text("name: launch.engines.sgd:SgdEngine\n")
    run("python -m didactic engine=sgd optimizer.lr=20", tmp_path, checkout)
    assert cell(tmp_path / "run")["total_variation"] < 0.02


@pytest.mark.slow
def test_a_configuration_key(tmp_path, checkout):
    (change,) = (text for language, text in BLOCK.findall(SECTIONS["A configuration key"]) if language == "diff")
    assert len(re.findall(r"^\+\+\+ ", change, re.MULTILINE)) == 3
    subprocess.run(["git", "apply"], input=change, cwd=checkout, text=True, check=True)
    (folder,) = run_all("A configuration key", tmp_path, checkout)
    run("python -m didactic steps=20", tmp_path, checkout, end="_default")
    run("python -m didactic steps=20", tmp_path, end="_before")
    final = [last_metrics(tmp_path / name)["loss"] for name in (folder.name, "run_default", "run_before")]
    assert final[1] == final[2] != final[0]
    assert "optimizer.epsilon" in run("python -m didactic --help", tmp_path, checkout)[0]
    error = run("python -m didactic optimizer.epsilon=-1", tmp_path, checkout, status=1, end="_wrong")[1]
    assert error == "didactic: optimizer.epsilon: must be finite and > 0, got -1.0\n"


@pytest.mark.slow
def test_an_experiment(tmp_path):
    write_files("An experiment", tmp_path)
    (folder,) = run_all("An experiment", tmp_path)
    assert "direction: forward" in (folder / "config.yaml").read_text()
