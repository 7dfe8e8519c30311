"""`launch.publish`: the card in the folder of the weights, and the upload, with a stand-in for the Hub."""

from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import ModelCard

from launch import publish
from tests.commands import run_module
from tests.next_lines import check_next

from .analysis.test_model_card import CONFIG, FACTS, SUMMARY
from .made_up import write_run


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run of llm with a policy."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    write_run(folder, CONFIG | {"max_new_tokens": 8}, summary=SUMMARY, package="llm", model=FACTS)
    (folder / "policy").mkdir()
    (folder / "policy" / "config.json").write_text("{}")
    (folder / "policy" / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def hub(monkeypatch):
    """What is asked of the Hub. Repositories that exist: name -> whether it is private."""
    state = SimpleNamespace(calls=[], repositories={}, error=None)

    class Api:
        def create_repo(self, name, *, private, exist_ok):
            state.calls.append(("create", name, private))
            assert exist_ok
            if state.error:
                raise state.error
            state.repositories.setdefault(name, private)

        def repo_info(self, name):
            return SimpleNamespace(private=state.repositories[name])

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            files = {path.name: path.read_bytes() for path in folder_path.iterdir()}
            state.calls.append(("upload", repo_id, files))
            return SimpleNamespace(repo_url=f"https://hub/{repo_id}")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return state


def test_the_card_is_written_and_nothing_is_pushed(run, hub, capsys, monkeypatch):
    assert publish.main([str(run)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "card: run/policy/README.md"
    assert ModelCard.load(run / "policy" / "README.md").data.base_model == "Qwen/Qwen3-1.7B"
    assert hub.calls == []
    check_next(out, run.parent, monkeypatch)


def test_a_push_makes_a_private_repository(run, hub, capsys):
    assert publish.main([str(run), "--push", "me/mine"]) == 0
    out = capsys.readouterr().out
    created, (kind, name, files) = hub.calls
    assert created == ("create", "me/mine", True)
    assert (kind, name, set(files)) == ("upload", "me/mine", {"README.md", "config.json", "model.safetensors"})
    assert b'from_pretrained("me/mine")' in files["README.md"]
    assert "pushed: https://hub/me/mine (private)" in out
    assert out.splitlines()[-1] == "next: python -m llm model.name_or_path=me/mine max_new_tokens=8"


def test_public_must_be_said(run, hub, capsys):
    assert publish.main([str(run), "--push", "me/mine", "--public"]) == 0
    assert hub.calls[0] == ("create", "me/mine", False)
    assert "(public)" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="me/mine exists and is public; choose another name, or give --public"):
        publish.main([str(run), "--push", "me/mine"])
    assert len(hub.calls) == 3  # nothing was uploaded the second time
    with pytest.raises(SystemExit, match="--public: needs --push"):
        publish.main([str(run), "--public"])


def test_a_card_of_the_users_is_kept(run, hub, capsys):
    (run / "policy" / "README.md").write_text("mine\n")
    assert publish.main([str(run), "--push", "me/mine"]) == 0
    assert "card: run/policy/README.md (kept; remove it to have it written anew)" in capsys.readouterr().out
    assert hub.calls[1][2]["README.md"] == b"mine\n"


@pytest.mark.parametrize("state", ["failed", "preempted"])
def test_an_unfinished_run_is_refused(run, hub, state):
    write_run(run, CONFIG, state, package="llm")
    with pytest.raises(SystemExit, match=f"only a finished run can be published, this one is {state}: .*resume"):
        publish.main([str(run), "--push", "me/mine"])
    assert hub.calls == []
    assert not publish.publishable(run)


def test_a_run_without_weights_is_refused(tmp_path, run):
    write_run(tmp_path / "other", CONFIG, package="didactic")
    with pytest.raises(SystemExit, match="a run of didactic has no weights"):
        publish.main([str(tmp_path / "other")])
    assert publish.publishable(run)  # the control


def test_files_that_name_this_machine_are_not_uploaded(run, hub):
    (run / "policy" / "config.json").write_text(f'{{"_name_or_path": "{run}"}}')
    with pytest.raises(SystemExit, match=r"--push: .*config\.json contains the folder"):
        publish.main([str(run), "--push", "me/mine"])
    (run / "policy" / "config.json").write_text('{"token": "hf_abcdefghijklmnopqrstuvwx"}')
    with pytest.raises(SystemExit, match="contains what looks like an access token"):
        publish.main([str(run), "--push", "me/mine"])
    assert hub.calls == []


def test_a_title_that_names_this_machine_is_refused(run):
    with pytest.raises(SystemExit, match="not written, since it would contain the folder"):
        publish.main([str(run), "--title", f"from {run.parent}"])
    assert not (run / "policy" / "README.md").exists()


def test_a_refusal_of_the_hub_is_one_line(run, hub):
    hub.error = OSError("401 Client Error\nmore")
    with pytest.raises(SystemExit, match=r"--push: the Hub did not take me/mine \(401 Client Error\)$"):
        publish.main([str(run), "--push", "me/mine"])
    assert len(hub.calls) == 1


def test_a_run_of_molecules_is_published_by_the_same_command(run, capsys, monkeypatch):
    write_run(run, {"seed": 0, "prior": "shipped"}, summary={"0.8/yield": 3}, package="chem", model=FACTS)
    assert publish.main([str(run)]) == 0
    assert "library_name: mara-rl" in (run / "policy" / "README.md").read_text()
    check_next(capsys.readouterr().out, run.parent, monkeypatch)


def test_it_is_typed(run):
    done = run_module("launch.publish", "run", folder=run.parent, status=0)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "card: run/policy/README.md",
        "next: python -m launch.publish run --push OWNER/run",
    ]
    done = run_module("launch.publish", "nothing", folder=run.parent, status=1)
    assert done.stderr == "launch.publish: nothing: not a run folder, it has no run.json\n"
