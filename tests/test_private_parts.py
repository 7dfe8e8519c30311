"""Private parts of other packages that are used here: which one has moved, and whether upper bounds protect them."""

import importlib.metadata
import inspect
import pkgutil
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

HOME = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [
    Requirement(text)
    for texts in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for text in texts
]
# distribution -> part -> (where it is used, parameters that it is called with)
PARTS = {
    "hydra-core": {
        "hydra._internal.utils:get_args_parser": ("launch/cli/command_line.py", ()),
        "hydra.core.override_parser.overrides_parser:OverridesParser.create": ("launch/cli/command_line.py", ()),
        "hydra.core.utils:filter_overrides": ("launch/cli/sweep_check.py", ("overrides",)),
        "hydra.core.utils:JobReturn": ("launch/cluster/launcher.py", ("overrides", "status")),
        "hydra.plugins.sweeper:Sweeper.validate_batch_is_legal": ("launch/cli/sweep_check.py", ("self", "batch")),
        "hydra._internal.core_plugins.basic_sweeper:BasicSweeper.split_arguments": (
            "launch/cli/sweep_check.py",
            ("overrides", "max_batch_size"),
        ),
        "hydra.experimental.callback:Callback.on_run_start": ("launch/cli/new_folder.py", ("config",)),
        "hydra.experimental.callback:Callback.on_multirun_start": ("launch/cli/new_folder.py", ("config",)),
        "hydra.core.global_hydra:GlobalHydra.instance": ("launch/cli/compose.py", ()),
        "hydra._internal.hydra:Hydra.create_main_hydra2": (
            "launch/cli/compose.py",
            ("task_name", "config_search_path"),
        ),
        "hydra._internal.utils:create_automatic_config_search_path": (
            "launch/cli/compose.py",
            ("calling_file", "calling_module", "config_path"),
        ),
        "hydra.core.override_parser.types:Override._convert_value": ("launch/cli/folder_name.py", ("value",)),
        "hydra.core.override_parser.types:QuotedString.with_quotes": ("launch/cli/overrides.py", ()),
        "hydra._internal.config_loader_impl:ConfigLoaderImpl.load_sweep_config": (
            "launch/cli/sweep_check.py",
            ("master_config", "sweep_overrides"),
        ),
    },
    "omegaconf": {
        "omegaconf._utils:is_dict_annotation": ("launch/cli/validation.py", ("type_",)),
        "omegaconf:DictConfig._get_node": ("launch/cli/validation.py", ("key",)),
        "omegaconf:DictConfig._set_flag": ("launch/cli/validation.py", ("flags", "values")),
        "omegaconf:DictConfig._is_missing": ("launch/cli/validation.py", ()),
        "omegaconf:DictConfig._is_none": ("launch/cli/validation.py", ()),
        "omegaconf:DictConfig._get_root": ("launch/cli/errors.py", ()),
        "omegaconf:DictConfig._get_parent": ("launch/cli/errors.py", ()),
        "omegaconf:DictConfig._is_optional": ("launch/cli/errors.py", ()),
        "omegaconf:DictConfig._value": ("launch/cli/errors.py", ()),
        "omegaconf:DictConfig._key": ("launch/cli/errors.py", ()),
    },
    "hydra-submitit-launcher": {
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher:BaseSubmititLauncher.launch": (
            "hydra_plugins/mara/__init__.py",
            ("job_overrides", "initial_job_idx"),
        ),
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher:BaseSubmititLauncher.setup": (
            "hydra_plugins/mara/__init__.py",
            ("hydra_context", "task_function", "config"),
        ),
    },
    "submitit": {
        "submitit.slurm.slurm:SlurmExecutor.affinity": ("launch/cluster/slurm.py", ()),
        "submitit.slurm.slurm:SlurmExecutor._make_submission_file_text": (
            "launch/cluster/slurm.py",
            ("command", "uid"),
        ),
        "submitit.slurm.slurm:SlurmExecutor._submitit_command_str": ("launch/cluster/slurm.py", ()),
        "submitit.core.core:Job._get_outcome_and_result": ("launch/cluster/job.py", ()),
        "submitit.local.local:LocalExecutor._submit_command": ("launch/cluster/local.py", ("command",)),
        "submitit.local.local:Controller.kill_tasks": ("launch/cluster/controller.py", ()),
        "submitit.core.core:Job.task": ("launch/cluster/job.py", ("task_id",)),
        "submitit.core.job_environment:JobEnvironment._usr_sig": ("launch/cluster/job.py", ()),
        "submitit.core.utils:JobPaths.result_pickle": ("launch/cluster/job.py", ()),
        "submitit.core.logger:get_logger": ("launch/cluster/job.py", ()),
    },
    "deepspeed": {
        "deepspeed.utils:safe_get_full_fp32_param": ("launch/engines/deepspeed.py", ("param",)),
        "deepspeed.utils:safe_get_full_optimizer_state": (
            "launch/engines/deepspeed.py",
            ("param", "optim_state_key"),
        ),
        "deepspeed.utils:safe_set_full_fp32_param": ("launch/engines/deepspeed.py", ("param", "value")),
        "deepspeed.utils:safe_set_full_optimizer_state": (
            "launch/engines/deepspeed.py",
            ("param", "value", "optim_state_key"),
        ),
        "deepspeed.utils:safe_set_local_fp32_param": ("launch/engines/deepspeed.py", ("param", "value")),
        "deepspeed.utils:safe_set_local_optimizer_state": (
            "launch/engines/deepspeed.py",
            ("param", "value", "optim_state_key"),
        ),
        "deepspeed.runtime.bf16_optimizer:BF16_Optimizer._lazy_init_hp_params_optimizer_state": (
            "launch/engines/deepspeed.py",
            (),
        ),
        "deepspeed.runtime.zero.stage_1_and_2:DeepSpeedZeroOptimizer._lazy_init_hp_params_optimizer_state": (
            "launch/engines/deepspeed.py",
            (),
        ),
        "deepspeed:ops.__compatible_ops__": ("launch/engines/deepspeed.py", ()),
    },
}
CASES = [(part, *PARTS[name][part]) for name in PARTS for part in PARTS[name]]


def moved(part, where, parameters):
    """What is wrong with a part, in one line; None where it is as the code expects it."""
    module = part.partition(":")[0]
    try:
        found = pkgutil.resolve_name(part)
    except (ImportError, AttributeError) as error:
        return f"{part}, used by {where}, is gone: {error}"
    known = inspect.signature(found).parameters if parameters else ()
    missing = [name for name in parameters if name not in known]
    if missing:
        return f"{part}, used by {where}, no longer takes {', '.join(missing)} (module {module})"
    return None


@pytest.mark.parametrize(("part", "where", "parameters"), CASES, ids=[part for part, *_ in CASES])
def test_a_part_is_where_it_was(part, where, parameters):
    assert moved(part, where, parameters) is None
    used = part.rpartition(".")[2].rpartition(":")[2]
    assert used in (HOME / where).read_text(encoding="utf-8"), f"{where} no longer uses {part}: drop the entry"


def test_control_a_part_that_moved_is_named():
    assert "_gone, used by x.py, is gone" in str(moved("submitit.core.core:Job._gone", "x.py", ()))
    assert "no longer takes rank" in str(moved("submitit.core.core:Job.task", "x.py", ("rank",)))


@pytest.mark.parametrize("name", PARTS)
def test_the_next_minor_release_is_not_installed_unseen(name):
    (requirement,) = (requirement for requirement in REQUIREMENTS if requirement.name == name)
    installed = Version(importlib.metadata.version(name))
    assert installed in requirement.specifier
    assert Version(f"{installed.major}.{installed.minor + 1}") not in requirement.specifier
