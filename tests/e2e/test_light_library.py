"""`pip install ./core` in an environment without anything else, and a plain install of the repository beside it."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def run(*command, cwd, status=0):
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "LOCAL_RANK")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )
    assert status is None or done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an environment in which the library is the only package, from a copy of its sources."""
    folder = tmp_path_factory.mktemp("light")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    shutil.copytree(ROOT / "core", folder / "core", ignore=shutil.ignore_patterns("__pycache__"))
    done = run(folder / "venv/bin/pip", "install", "--no-deps", "./core", cwd=folder, status=None)
    if done.returncode and "hatchling" in done.stderr:
        pytest.skip("the build backend hatchling cannot be downloaded")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def python(folder):
    """Its Python, which finds torch and other packages where these tests find them."""
    (site,) = folder.glob("venv/lib/python3*/site-packages")
    assert sorted(path.name for path in site.iterdir() if path.name.startswith("mara")) == [
        "mara",
        "mara_rl-0.1.0.dist-info",
    ]
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv/bin/python"


def test_the_library_computes_a_gradient(python, tmp_path):
    script = """
        import sys
        import mara
        assert "torch" not in sys.modules
        import torch
        logits = torch.zeros(3, requires_grad=True)
        ref_logp = torch.tensor([0.3, 0.02, 0.68]).log()
        reward = mara.augment_reward(torch.tensor([1.0, 1.0, 0.0]), ref_logp, beta=0.1, threshold=1.0)
        mara.policy_gradient(logits.log_softmax(-1), mara.leave_one_out(reward)).backward()
        print(mara.__name__, mara.targets.__name__ if mara.reverse_kl_target else "", logits.grad.tolist())
        assert "core" not in sys.modules
        """
    name, module, *gradient = run(python, "-c", textwrap.dedent(script), cwd=tmp_path).stdout.split(maxsplit=2)
    assert (name, module) == ("mara", "mara.targets")
    first, second, third = ast.literal_eval(gradient[0])
    assert second < first < 0 < third  # the rarer of the two good completions is raised more


def test_the_module_explain_is_a_command(python, tmp_path):
    problem = ["reward=[1,1,0]", "ref=[.3,.02,.68]", "beta=.01"]
    out = run(python, "-m", "mara.explain", *problem, "--html", "page.html", cwd=tmp_path).stdout
    assert "15 to 1 as in the reference" in out
    assert "didactic" not in out  # a command that is not there
    assert (tmp_path / "page.html").stat().st_size > 10_000
    usage = run(python, "-m", "mara.explain", "--help", cwd=tmp_path).stdout
    assert usage.startswith("usage: python -m mara.explain reward=LIST")
    assert "core.explain" not in usage
    assert run(python, "-m", "mara.explain", "ref=[1]", cwd=tmp_path, status=1).stderr.count("\n") == 1


def test_a_step_of_trl(python, tmp_path):
    pytest.importorskip("trl", reason="needs the extra trl")
    from llm.testbed.tiny_models import tiny_model

    script = """
        import sys
        from datasets import Dataset
        from mara.integrations.trl import MaraGRPOConfig, MaraGRPOTrainer

        args = MaraGRPOConfig(output_dir="out", mara_beta=0.1, mara_threshold=0.5, mara_level="answer",
            num_generations=4, per_device_train_batch_size=4, max_completion_length=8, max_steps=1, use_cpu=True,
            bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no")
        data = Dataset.from_list([{"prompt": [{"role": "user", "content": "hi"}]}])
        reward = lambda completions, **_: [float(i % 2) for i in range(len(completions))]
        trainer = MaraGRPOTrainer(sys.argv[1], reward, args, answer=lambda text: text[:1], train_dataset=data)
        trainer.train()
        print("done", type(trainer.objective).__module__)
        """
    out = run(python, "-c", textwrap.dedent(script), tiny_model(), cwd=tmp_path).stdout
    assert out.splitlines()[-1] == "done mara.objective"
    assert "mara/good_share" in out


def test_a_plain_install_of_the_repository_is_refused(folder, tmp_path):
    pip = folder / "venv/bin/pip"
    done = run(pip, "install", "--no-deps", ROOT, cwd=tmp_path, status=None)
    if "setuptools>=77" in done.stderr:
        pytest.skip("the build backend setuptools cannot be downloaded")
    assert done.returncode != 0
    assert "mara: this repository is used from a clone" in done.stderr
    assert not list(folder.glob("venv/lib/python3*/site-packages/llm"))
