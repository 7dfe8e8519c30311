"""Speed of a reinforcement-learning step in molecules per second: our step and a plain step like REINVENT's.

python -m benchmarks.chem_step [--prior FOLDER] [--turns N] [--batch N] [--threads N]

Both start from the same prior, sample batches of the same size, score them by QED and update with REINVENT's loss,
sigma = 128 and Adam at 1e-4. The plain step samples all rows until the last one has ended, computes both likelihoods
over the padded batch, padding included, and scores one molecule after the other in this process. The two alternate in
turns of three steps, so that changes in the machine's speed affect both. Turns in which other processes used more
than a tenth of a core are left out of the medians, unless all turns are like that. CPU seconds are those of this
process and its children. The log-likelihoods of both are compared on the same sequences.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from itertools import count
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from rdkit import Chem, rdBase
from rdkit.Chem import QED
from torch import Tensor

from benchmarks.llm_step import machine_busy
from chem.filters import DiversityFilter
from chem.models.network import token_logp
from chem.models.prior import SHIPPED, Prior, load_prior
from chem.models.recurrent import Recurrent
from chem.models.tokenizer import END_ID, START_ID
from chem.oracles import Oracle
from chem.parallel.sampler import ParallelSampler
from chem.parallel.threads import RowThreads
from chem.replay import ReplayMemory
from chem.scoring import RewardFunction
from chem.train import Learner, make_chem_objective, train_step
from conf.schema.chem import ChemConfig
from launch.cli.compose import compose_typed
from launch.engines.torch import TorchEngine
from launch.runs.rng import rollout_uniforms

SIGMA = 128.0
STEPS = 3  # per turn


def plain_sample(network: Recurrent, rows: int, max_tokens: int) -> Tensor:
    """[N, T] ids after START; rows that have ended are still computed with the others, as in REINVENT."""
    token, state, tokens = torch.full((rows,), START_ID), None, []
    ended = torch.zeros(rows, dtype=torch.bool)
    for _ in range(max_tokens):
        hidden, state = network.cells(network.embedding(token.unsqueeze(1)), state)
        token = torch.multinomial(network.head(hidden[:, 0]).softmax(-1), 1).squeeze(1).masked_fill(ended, END_ID)
        tokens.append(token)
        ended = ended | (token == END_ID)
        if bool(ended.all()):
            break
    return torch.stack(tokens, 1)


def plain_logp(network: Recurrent, tokens: Tensor) -> Tensor:
    """[N] log-likelihoods, computed over the padded batch at once; padding is computed and then masked."""
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
    for string in smiles:
        molecule = Chem.MolFromSmiles(string)
        canonical = "" if molecule is None else Chem.MolToSmiles(molecule)
        scores.append(0.0 if not canonical or canonical in seen else QED.qed(molecule))
        seen.add(canonical)
    with torch.no_grad():
        prior_logp = plain_logp(prior.network, tokens)  # type: ignore[arg-type]
    policy_logp = plain_logp(policy, tokens)
    loss = (prior_logp + SIGMA * torch.tensor(scores) - policy_logp).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def largest_difference(prior: Prior, sampler: ParallelSampler) -> float:
    """Largest relative difference from the plain log-likelihoods, of 256 molecules, read as policy and as prior."""
    uniforms = rollout_uniforms(1, 0, [0] * 256, list(range(256)), prior.max_tokens)
    rollout, as_policy = sampler.draw(uniforms)
    with torch.no_grad():
        plain = plain_logp(prior.network, rollout.tokens)  # type: ignore[arg-type]
        as_prior = token_logp(prior.network, rollout.tokens, rollout.mask, sampler.row_threads)
        return max(float(((fast.sum(-1) - plain) / plain).abs().max()) for fast in (as_policy, as_prior))


class Turn(NamedTuple):
    """Wall-clock and CPU seconds per step, and CPU seconds per second of all other processes."""

    wall: float
    cpu: float
    others: float


def time_turn(step: Callable[[], object]) -> Turn:
    children = psutil.Process().children(recursive=True)

    def own_cpu() -> float:
        return time.process_time() + sum(sum(child.cpu_times()[:2]) for child in children)

    start, cpu_before, busy = time.perf_counter(), own_cpu(), machine_busy()
    for _ in range(STEPS):
        step()
    wall, cpu = time.perf_counter() - start, own_cpu() - cpu_before
    return Turn(wall / STEPS, cpu / STEPS, max(machine_busy() - busy - cpu, 0.0) / wall)


@contextmanager
def fast_step(prior: Prior, batch: int, threads: int) -> Iterator[tuple[Callable[[], object], ParallelSampler]]:
    """Give a function that makes the next of our steps, and its sampler."""
    overrides = ["loss=reinvent", "duplicates=zero", "optimizer.lr=1e-4", f"batch_size={batch}", "budget=null"]
    config: ChemConfig = compose_typed("chem", overrides)[0]
    policy, row_threads, steps = deepcopy(prior.network), RowThreads(batch, threads), count()
    engine = TorchEngine(policy, config.optimizer, 10**6)
    with (
        rdBase.BlockLogs(),
        Oracle(config.oracle) as oracle,
        ThreadPoolExecutor(1) as thread,
        row_threads,
        ParallelSampler(policy, row_threads) as sampler,
    ):
        learner = Learner(
            prior=prior,
            engine=engine,
            objective=make_chem_objective(config),
            reward_function=RewardFunction(oracle, None, None),
            diversity_filter=DiversityFilter(config.diversity_filter),
            memory=ReplayMemory(config.replay, prior.tokenizer),
            oracle_thread=thread,
            row_threads=row_threads,
            sampler=sampler,
            classes=None,
            labels=list,
        )
        yield lambda: train_step(learner, config, next(steps), config.objective.beta), sampler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", type=Path, default=SHIPPED)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    prior = load_prior(options.prior)
    plain = deepcopy(prior.network)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-4)
    turns: list[tuple[Turn, Turn]] = []
    with fast_step(prior, options.batch, options.threads) as (step, sampler):
        for _ in range(options.turns + 1):
            plain_turn = time_turn(lambda: plain_step(prior, plain, optimizer, options.batch))  # type: ignore[arg-type]
            turns.append((plain_turn, time_turn(step)))
        with ParallelSampler(prior.network, sampler.row_threads) as prior_sampler:
            difference = largest_difference(prior, prior_sampler)
    del turns[0]  # warm-up
    quiet = [pair for pair in turns if max(turn.others for turn in pair) <= 0.1]
    medians = [Turn(*map(statistics.median, zip(*side, strict=True))) for side in zip(*(quiet or turns), strict=True)]
    result: dict[str, object] = {
        "batch": options.batch,
        "threads": options.threads,
        "turns": len(turns),
        "undisturbed": len(quiet),
        "largest_relative_difference": difference,
    }
    for name, turn in zip(("plain", "ours"), medians, strict=True):
        result |= {f"{name}/{key}": round(value, 3) for key, value in turn._asdict().items()}
        result[f"{name}/molecules_per_s"] = round(options.batch / turn.wall, 1)
    ratios = [plain_turn.wall / turn.wall for plain_turn, turn in quiet or turns]
    result["times_plain"] = round(statistics.median(ratios), 2)
    result["times_plain_quartiles"] = [round(value, 2) for value in statistics.quantiles(ratios, n=4)[::2]]
    result["times_plain_cpu"] = round(medians[0].cpu / medians[1].cpu, 2)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
