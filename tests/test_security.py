"""What docs/security.md promises of the source: nothing that executes what a file holds."""

import ast
import json
import pickle
import re
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from launch.cli.shadowing import ROOMS
from llm.adapters import load_pretrained

HOME = Path(__file__).resolve().parents[1]
MODULES = ("pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib")
CALLS = ("eval", "exec", "compile", "__import__")
UNSAFE_YAML = ("unsafe_load", "full_load", "load_all")


def unsafe(source: str) -> list[str]:
    """What in a module's source executes, or may execute, what a file holds."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            names = [module, *(alias.name for alias in node.names)]
            found += [f"import {name}" for name in names if name.partition(".")[0] in MODULES]
        if not isinstance(node, ast.Call):
            continue
        function, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        if function in CALLS or function in ("os.system", "os.popen") or keywords.get("shell", "False") != "False":
            found.append(function)
        if function == "torch.load" and keywords.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if function.rpartition(".")[2] in UNSAFE_YAML or function == "yaml.load":
            found.append(function)
        if keywords.get("trust_remote_code", "False") != "False":
            found.append("trust_remote_code")
    return found


@pytest.mark.parametrize("room", [*ROOMS, "hydra_plugins", "tools", "benchmarks"])
def test_no_source_executes_what_a_file_holds(room):
    sources = {str(path.relative_to(HOME)): path.read_text("utf-8") for path in (HOME / room).rglob("*.py")}
    assert {name: calls for name, source in sources.items() if (calls := unsafe(source))} == {}


@pytest.mark.parametrize(
    "line",
    [
        *("import pickle", "from dill import loads", "eval(x)", "os.system(x)", "run(x, shell=True)", "yaml.load(x)"),
        *(
            "torch.load(x)",
            "torch.load(x, weights_only=False)",
            "AutoModel.from_pretrained(x, trust_remote_code=True)",
        ),
    ],
)
def test_control_what_executes_is_found(line):
    assert unsafe(line)
    assert not unsafe("model.eval(); torch.load(x, weights_only=True); re.compile(x); run(x, shell=False)")


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.safetensors"])
def test_a_models_own_code_and_pickled_weights_are_refused(tmp_path, weights):
    marker = tmp_path / "marker"
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w')\n")
    auto_map = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    settings: dict[str, object] = {"model_type": "made_up", "auto_map": auto_map}
    if weights == "pytorch_model.bin":
        settings = {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 4, "vocab_size": 5}
    (folder / "config.json").write_text(json.dumps(settings))
    attack = f"cbuiltins\nexec\n(Vopen({str(marker)!r}, 'w')\ntR.".encode()
    (folder / weights).write_bytes(attack)
    with pytest.raises((OSError, ValueError)):
        load_pretrained(AutoModelForCausalLM, str(folder))
    assert not marker.exists()
    pickle.loads(attack)  # control
    assert marker.exists()


def test_the_tests_that_the_page_names_exist():
    names = re.findall(r"`(tests/[\w./]+)`", (HOME / "docs" / "security.md").read_text("utf-8"))
    assert len(names) > 15
    assert [name for name in names if not (HOME / name).is_file()] == []
