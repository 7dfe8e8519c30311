"""Checkpoints on their own: what comes back, which are kept, which are used. test_interruptions.py resumes runs."""

import errno
import io
import json
import os

import pytest
import torch

from conf.schema.base import ConfigError
from launch.runs import checkpoint
from launch.runs.atomic import PARTIAL, remove_partial
from launch.runs.checkpoint import DamagedCheckpoint, LoopState, Manifest, checkpoint_steps


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, None, True, "x"], "b": {"c": torch.arange(3)}, "d": 1 << 200},
        {"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "betas": [0.9, float("inf")]},
        {"empty": torch.zeros(0, 3), "bf16": torch.ones(2, dtype=torch.bfloat16), "bool": torch.tensor([True])},
        {"strided": torch.arange(6).reshape(2, 3).T},
    ],
)
def test_a_state_comes_back(tmp_path, value):
    manifest = checkpoint.Manifest(1, {}, {}, {}, None)
    checkpoint.save_checkpoint(tmp_path, manifest, value, 1)
    assert checkpoint.read_manifest(tmp_path, 1) == manifest
    back = checkpoint.read_state(tmp_path, 1)
    assert same_tree(back, value)
    assert not same_tree(back, {**value, "more": None})  # control


def same_tree(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_tree(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same_tree(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and a == b


def test_tied_tensors_are_stored_once_and_other_things_are_refused(tmp_path):
    weight = torch.randn(100)
    manifest = checkpoint.Manifest(1, {}, {}, {}, None)
    checkpoint.save_checkpoint(tmp_path, manifest, {"in": weight, "out": weight, "half": weight[:50]}, 1)
    stored = torch.tensor([t.numel() for t in checkpoint.load_file(next(tmp_path.rglob("*.safetensors"))).values()])
    assert sorted(stored.tolist()) == [50, 100]
    with pytest.raises(TypeError, match="got object"):
        checkpoint.save_checkpoint(tmp_path, manifest, {"a": object()}, 1)
    assert checkpoint_steps(tmp_path) == [1]


def save(folder, step, keep=9, score=None, config=None, identity=None, positions=None):
    manifest = Manifest(step, config or {"lr": 0.1}, identity or {}, positions or {}, score)
    checkpoint.save_checkpoint(folder, manifest, {"step": step}, keep)


def newest(folder, config=None, identity=None):
    """The step of the checkpoint that is used, and the warnings."""
    warnings: list[str] = []
    manifest = checkpoint.newest_checkpoint(folder, config or {"lr": 0.1}, identity or {}, warnings.append)
    return None if manifest is None else manifest.step, warnings


def test_the_newest_undamaged_checkpoint_is_used(tmp_path):
    assert newest(tmp_path) == (None, [])
    for step in (1, 2, 30):
        save(tmp_path, step)
    assert newest(tmp_path) == (30, [])
    path = tmp_path / "checkpoints" / "step_00000030"
    (path / "state.json").write_text("{}")
    step, (warning,) = newest(tmp_path)
    assert step == 2
    assert warning == (
        f"{path} is damaged and is not used: the checksum of state.json does not match; "
        "it was renamed to damaged_step_00000030"
    )
    assert checkpoint_steps(tmp_path) == [2, 1]
    for step in (1, 2):
        (tmp_path / "checkpoints" / f"step_{step:08}" / "manifest.json").unlink()
    assert newest(tmp_path)[0] is None
    assert newest(tmp_path) == (None, [])  # they are said once
    save(tmp_path, 30)
    assert newest(tmp_path)[0] == 30
    (path / "state.json").write_text("{}")  # what was set aside of the same step is replaced
    assert newest(tmp_path)[0] is None


def test_a_checkpoint_whose_lines_are_lost_is_not_used(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("1234\n")
    for step, size in ((1, 5), (2, 6)):
        save(tmp_path, step, positions={"metrics": size})
    step, (warning,) = newest(tmp_path)
    assert step == 1
    assert "not used: metrics.jsonl is shorter than it was when the checkpoint was written; it was" in warning


def damage(folder, step, name="state.json", content=""):
    (folder / "checkpoints" / f"step_{step:08}" / name).write_text(content)


def test_damaged_checkpoints_do_not_count_when_old_ones_are_removed(tmp_path):
    save(tmp_path, 10, keep=2)
    save(tmp_path, 20, keep=2)
    damage(tmp_path, 20)
    assert newest(tmp_path)[0] == 10
    save(tmp_path, 15, keep=1)  # as a run that resumed from 10 and was stopped
    assert checkpoint_steps(tmp_path) == [15]
    assert newest(tmp_path) == (15, [])
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["damaged_step_00000020", "step_00000015"]
    damage(tmp_path, 15, "manifest.json", "{}")
    save(tmp_path, 16, keep=1)
    save(tmp_path, 17, keep=2)
    assert checkpoint_steps(tmp_path) == [17, 16]


@pytest.mark.parametrize("content", ["[" * 100_000, "{}", "", "nul\0", '{"checksum": 1}'])
def test_a_manifest_of_any_content_is_damaged(tmp_path, content):
    for step in (1, 2):
        save(tmp_path, step)
    damage(tmp_path, 2, "manifest.json", content)
    with pytest.raises(DamagedCheckpoint):
        checkpoint.read_manifest(tmp_path, 2)
    assert newest(tmp_path)[0] == 1


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EIO, "I/O error")]
)
@pytest.mark.parametrize("name", ["manifest.json", "tensors.safetensors", "metrics.jsonl", "checkpoints"])
def test_what_cannot_be_read_stops_the_run(tmp_path, monkeypatch, error, name):
    (tmp_path / "metrics.jsonl").write_text("1234\n")
    checksums = {"metrics": checkpoint.file_checksum(tmp_path / "metrics.jsonl")}
    for step in (1, 2):
        manifest = Manifest(step, {"lr": 0.1}, {}, {"metrics": 5}, None, checksums)
        checkpoint.save_checkpoint(tmp_path, manifest, {"step": step}, 2)
    opened, listed = io.open, os.listdir

    def open_or_fail(path, *arguments, **options):
        if str(path).endswith(name):
            raise type(error)(*error.args, str(path))
        return opened(path, *arguments, **options)

    def list_or_fail(path):
        if str(path).endswith(name):
            raise type(error)(*error.args, str(path))
        return listed(path)

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", open_or_fail)  # of Path.open
        patch.setattr(os, "listdir", list_or_fail)
        with pytest.raises(ConfigError, match=rf"{name}: cannot be read: {error.strerror}; the run was not resumed"):
            newest(tmp_path)
    assert newest(tmp_path) == (2, [])  # nothing was changed


def test_lines_that_were_changed_are_noticed(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text("1234\n5678\n")
    for step, position in ((1, 5), (2, 10)):
        checksums = {"samples": checkpoint.file_checksum(path, position)}
        manifest = Manifest(step, {"lr": 0.1}, {}, {"samples": position}, None, checksums)
        checkpoint.save_checkpoint(tmp_path, manifest, {}, 2)
    assert newest(tmp_path)[0] == 2
    path.write_text("1234\n5679\n")
    step, (warning,) = newest(tmp_path)
    assert step == 1
    assert "samples.jsonl differs from what it was when the checkpoint was written" in warning


def test_timings_are_not_needed(tmp_path):
    save(tmp_path, 1, positions={"timings": 5, "metrics": 0})
    assert newest(tmp_path) == (1, [])


def test_a_checkpoint_can_be_required(tmp_path):
    def required(folder):
        return checkpoint.newest_checkpoint(folder, {"lr": 0.1}, {}, print, required=True)

    with pytest.raises(ConfigError, match=r"^resume=must: .* holds no checkpoint to resume from; use resume=auto to"):
        required(tmp_path)
    for step in (1, 2):
        save(tmp_path, step)
    assert required(tmp_path).step == 2
    damage(tmp_path, 2)
    with pytest.raises(ConfigError, match=r"^resume=must: .*step_00000002 is damaged: .*; use resume=auto to go on"):
        required(tmp_path)
    damage(tmp_path, 1)
    with pytest.raises(ConfigError, match=r"^resume=must: .*step_00000002 is damaged: .*; use resume=auto to start"):
        required(tmp_path)
    assert checkpoint_steps(tmp_path) == [2, 1]  # nothing was changed


def test_a_checkpoint_of_another_run_or_model_is_refused(tmp_path):
    save(tmp_path, 4, config={"lr": 0.1, "a": 1}, identity={"reference": "x"})
    with pytest.raises(
        ConfigError, match=r"step_00000004: differs from this run: lr is 0\.1 there and 0\.2 here; use a"
    ):
        newest(tmp_path, {"lr": 0.2, "a": 1}, {"reference": "x"})
    with pytest.raises(ConfigError, match="reference is x there and y here; use a new folder for another model"):
        newest(tmp_path, {"lr": 0.1, "a": 1}, {"reference": "y"})
    assert newest(tmp_path, {"lr": 0.1, "a": 1}, {"reference": "x"})[0] == 4


def test_the_message_gives_three_keys_and_the_number_of_others():
    theirs, ours = dict.fromkeys("abcde", 1), {"a": 1, "b": 2}
    with pytest.raises(ConfigError) as error:
        checkpoint.check_equal("file", theirs, ours, "do this")
    assert str(error.value) == (
        "file: differs from this run: b is 1 there and 2 here, c is 1 there and absent here, "
        "d is 1 there and absent here and 1 more; do this"
    )
    checkpoint.check_equal("file", theirs, dict(theirs), "do this")


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ({1: None, 2: None, 3: None}, [3]),
        ({1: 5.0, 2: 1.0, 3: 1.0}, [3, 1]),
        ({1: 1.0, 2: 1.0, 3: 0.0}, [3, 2]),  # the latest of a tie
        ({1: -1.0, 2: None, 3: -2.0}, [3, 1]),
        ({1: 0.0, 2: 0.0, 3: 1.0}, [3]),
    ],
)
def test_the_last_and_the_best_are_kept(tmp_path, scores, kept):
    for step, score in scores.items():
        save(tmp_path, step, score=score)
    checkpoint.prune_checkpoints(tmp_path, 1)
    assert checkpoint_steps(tmp_path) == kept


def test_only_folders_of_steps_are_checkpoints(tmp_path):
    for name in ("step_00000007", "step_000000x", f"{PARTIAL}00000009", "mine"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert checkpoint_steps(tmp_path) == [7]
    remove_partial(tmp_path / "checkpoints")
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step_00000007", "step_000000x", "mine"}
    with pytest.raises(DamagedCheckpoint):
        checkpoint.read_manifest(tmp_path, 7)


def test_a_checkpoint_of_before_a_rename_is_still_of_the_same_run(tmp_path):
    save(tmp_path, 1, config={"objective.mask_tied": False})
    assert newest(tmp_path, {"objective.skip_tied_groups": False})[0] == 1


def test_results_do_not_depend_on_some_keys():
    config = {"seed": 1, "resume": "must", "checkpoint": {"keep": 3}, "loggers": ["wandb"], "optimizer": {"lr": 0.1}}
    assert checkpoint.result_config(config) == {"seed": 1, "optimizer.lr": 0.1}


def test_values_of_a_loop_are_its_state(tmp_path):
    values = LoopState(beta=0.5, seen=[1])
    manifest = Manifest(1, {}, {}, {}, None)
    checkpoint.save_checkpoint(tmp_path, manifest, {"values": values.state_dict()}, 1)
    values.beta = 2.0
    other = LoopState(beta=0.0, seen=[])
    other.load_state_dict(checkpoint.read_state(tmp_path, 1)["values"])
    assert (other.beta, other.seen) == (0.5, [1])


def test_a_hash_depends_on_names_types_shapes_and_values():
    tensor = torch.arange(6.0)
    others = [
        [("b", tensor)],
        [("a", tensor.double())],
        [("a", tensor.view(2, 3))],
        [("a", tensor + 1e-6)],
        [("a", tensor), ("b", tensor)],
        [("a", tensor.view(2, 3).T)],
    ]
    hashes = [checkpoint.tensors_hash(tensors) for tensors in ([("a", tensor)], *others)]
    assert len(set(hashes)) == len(hashes)
    strided = torch.arange(12.0)[::2] / 2
    assert checkpoint.tensors_hash([("a", strided)]) == hashes[0]  # the storage does not matter
    assert all(len(text) == 64 for text in hashes)


def test_the_files_of_a_checkpoint_are_plain(tmp_path):
    checkpoint.save_checkpoint(tmp_path, Manifest(3, {}, {}, {}, None), {"w": torch.ones(2), "n": (1, None)}, 1)
    folder = tmp_path / "checkpoints" / "step_00000003"
    assert {path.name for path in folder.iterdir()} == {"tensors.safetensors", "state.json", "manifest.json"}
    tree = json.loads((folder / "state.json").read_text())
    assert tree == {"mapping": [["w", {"tensor": "0"}], ["n", [1, None]]]}
