"""Molecules a second of reinforcement learning: our step beside a plain one that does what REINVENT does.

python -m benchmarks.chem_step [--prior FOLDER] [--steps N] [--batch N] [--threads N]

Both start from the same prior, draw batches of the same size, score them by QED and take the step of REINVENT's loss
with sigma = 128 and Adam at 1e-4. The plain step draws all rows until the last has ended, computes both likelihoods
over the padded batch, scores one molecule after the other in this process, and feeds padding to the networks. Steps
alternate, so that the machine's drift meets both. Likelihoods of both are compared on the same sequences.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import torch
from rdkit import Chem, rdBase
from rdkit.Chem import QED
from torch import Tensor

from chem.filters import DiversityFilter
from chem.networks import SHIPPED, Prior, Recurrent, load_prior, sample, token_logp
from chem.oracles import Oracle
from chem.replay import Memory
from chem.scoring import Scoring
from chem.tokenizer import END_ID, START_ID
from chem.train import Learner, make_chem_objective, train_step
from conf.schema import ChemConfig
from launch.compose import compose_typed
from launch.engine import TorchEngine
from launch.streams import rollout_uniforms

SIGMA = 128.0


def plain_sample(network: Recurrent, rows: int, longest: int) -> Tensor:
    """[N, T] ids after START; rows that have ended are drawn on with the others, as REINVENT does."""
    token, state, drawn = torch.full((rows,), START_ID), None, []
    ended = torch.zeros(rows, dtype=torch.bool)
    for _ in range(longest):
        hidden, state = network.cells(network.embedding(token.unsqueeze(1)), state)
        token = torch.multinomial(network.head(hidden[:, 0]).softmax(-1), 1).squeeze(1).masked_fill(ended, END_ID)
        drawn.append(token)
        ended = ended | (token == END_ID)
        if bool(ended.all()):
            break
    return torch.stack(drawn, 1)


def plain_logp(network: Recurrent, tokens: Tensor) -> Tensor:
    """[N] log-likelihoods, over the padded batch at once; padding is computed and then left out."""
    start = torch.full_like(tokens[:, :1], START_ID)
    hidden, _ = network.cells(network.embedding(torch.cat([start, tokens[:, :-1]], 1)))
    logp = network.head(hidden).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    ended = (tokens == END_ID).long()
    return logp.masked_fill(ended.cumsum(-1) - ended > 0, 0.0).sum(-1)


def plain_step(prior: Prior, policy: Recurrent, optimizer: torch.optim.Optimizer, rows: int) -> None:
    with torch.no_grad():
        tokens = plain_sample(policy, rows, prior.max_tokens)
    smiles = prior.tokenizer.decode(tokens)
    seen: set[str] = set()
    scores = []
    for one in smiles:
        molecule = Chem.MolFromSmiles(one)
        canonical = "" if molecule is None else Chem.MolToSmiles(molecule)
        scores.append(0.0 if not canonical or canonical in seen else QED.qed(molecule))
        seen.add(canonical)
    with torch.no_grad():
        reference = plain_logp(prior.network, tokens)  # type: ignore[arg-type]
    own = plain_logp(policy, tokens)
    loss = (reference + SIGMA * torch.tensor(scores) - own).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def largest_difference(prior: Prior) -> float:
    """Of the log-likelihoods of 256 sampled molecules, relative."""
    uniforms = rollout_uniforms(1, 0, [0] * 256, list(range(256)), prior.max_tokens)
    rollout = sample(prior.network, uniforms)
    with torch.no_grad():
        plain = plain_logp(prior.network, rollout.tokens)  # type: ignore[arg-type]
        fast = token_logp(prior.network, rollout.tokens, rollout.mask).sum(-1)
    return float(((fast - plain) / plain).abs().max())


def seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", type=Path, default=SHIPPED)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    prior = load_prior(given.prior)
    overrides = ["loss=reinvent", "duplicates=zero", "optimizer.lr=1e-4", f"batch_size={given.batch}", "budget=null"]
    config: ChemConfig = compose_typed("chem", overrides)[0]
    plain, fast = deepcopy(prior.network), deepcopy(prior.network)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-4)
    engine = TorchEngine(fast, config.optimizer, 10**6)
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    with rdBase.BlockLogs(), Oracle(config.oracle) as oracle, ThreadPoolExecutor(1) as thread:
        learner = Learner(
            prior,
            engine,
            make_chem_objective(config),
            Scoring(oracle, None, None),
            DiversityFilter(config.diversity_filter),
            Memory(config.replay, prior.tokenizer),
            thread,
        )
        for number in range(given.steps + 1):
            times["plain"].append(seconds(lambda: plain_step(prior, plain, optimizer, given.batch)))  # type: ignore[arg-type]
            times["ours"].append(seconds(lambda n=number: train_step(learner, config, n, config.objective.beta)))
    middle = {name: statistics.median(found[1:]) for name, found in times.items()}  # the first warms up
    result = {
        "batch": given.batch,
        "threads": given.threads,
        "steps": given.steps,
        **{f"{name}_s": round(value, 4) for name, value in middle.items()},
        **{f"{name}_molecules_per_s": round(given.batch / value, 1) for name, value in middle.items()},
        "times_plain": round(middle["plain"] / middle["ours"], 2),
        "largest_relative_difference": largest_difference(prior),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
