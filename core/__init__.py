"""KL-regularised RL with mode-anchored reward augmentation: objectives, reward transforms and gradient estimators.

Needs torch and the standard library. Installed by `pip install ./core` the package is `mara`; in the repository it is
`core`. A name in `__all__` is loaded when it is first used, so `import mara` alone does not load torch:

    import mara

    target = mara.reverse_kl_target(ref_logp, reward, beta=0.1)
    reward = mara.augment_reward(reward, ref_seq_logp, beta=0.1, threshold=1.0)

All other functions are in the modules: `mara.advantages`, `mara.losses`, `mara.divergences` and so on. Adapters for
TRL, verl and OpenRLHF are in `mara.integrations`.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

PUBLIC = {  # module -> its public names that are also names of the package
    "advantages": ("centred", "leave_one_out"),
    "classes": ("ClassMemory", "GroupFacts", "Masses", "StepMasses", "group_mass"),
    "losses": ("clipped_policy_gradient", "policy_gradient"),
    "mara": (
        "anchor_reference",
        "augment_reward",
        "quantile_threshold",
        "reference_quantile",
        "select_anchor",
    ),
    "objective": ("Objective", "make_objective", "make_threshold"),
    "paths": ("policy_gradient_path",),
    "sequence": ("masked_sum", "selected_logp"),
    "stats": ("effective_modes", "effective_sample_size", "entropy", "total_variation"),
    "targets": (
        "forward_crossover_beta",
        "forward_kl_target",
        "reverse_crossover_beta",
        "reverse_kl_target",
        "reverse_log_ratio",
    ),
}
MODULE_OF = {name: module for module, names in PUBLIC.items() for name in names}
__all__ = sorted(MODULE_OF)


def __getattr__(name: str) -> Any:
    """Load a public name's module when it is first used."""
    if name not in MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
