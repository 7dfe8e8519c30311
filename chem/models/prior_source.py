"""Load a prior by the name that a configuration gives it."""

from chem.models.prior import SHIPPED, Prior, load_prior
from chem.models.reinvent4 import convert_prior, read_reinvent
from conf.schema.base import ConfigError
from launch.runs.run_folder import user_path


def open_prior(key: str, name: str) -> Prior:
    """Load the shipped prior, a folder that `save_prior` wrote, or a file of REINVENT 4 or 2, which runs no code.

    Args:
        key: the configuration's key, for the message about a name that is neither.
        name: shipped, or a path.

    Raises:
        ConfigError: there is no such prior, or it cannot be used.
    """
    if name == "shipped":
        return load_prior(SHIPPED)
    path = user_path(name)
    if not path.exists():
        raise ConfigError(
            f"{key}: {name} does not exist; give a folder of a prior, a file of REINVENT 4 or 2, or shipped"
        )
    if path.is_file():
        try:
            return convert_prior(read_reinvent(path))
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from error
    return load_prior(path)


def prior_facts(name: str) -> dict[str, str]:
    """Where a prior is from, for run.json: its origin, never a path, and its license if it is known."""
    if name == "shipped":
        return {"origin": "the prior of mara, trained on ZINC250k", "license": "apache-2.0"}
    return {"origin": user_path(name).name}


def open_agent(name: str | None, prior: Prior) -> Prior:
    """Load the prior that a policy starts from; None: a copy of the reference's is meant, and it is returned.

    Raises:
        ConfigError: it has another vocabulary than the reference, whose tokens it must be able to score.
    """
    if name is None:
        return prior
    agent = open_prior("agent", name)
    if agent.tokenizer.tokens != prior.tokenizer.tokens:
        ours, theirs = set(agent.tokenizer.tokens), set(prior.tokenizer.tokens)
        differing = sorted(ours ^ theirs)[:5]
        reason = f"only one of the two has {' '.join(differing)}" if differing else "the order of the tokens differs"
        raise ConfigError(
            f"agent: must have the vocabulary of the prior, since each scores the other's tokens; {reason}; use an "
            "agent that was trained from this prior"
        )
    return agent._replace(max_tokens=min(agent.max_tokens, prior.max_tokens))
