"""Molecules a second of reinforcement learning: our step beside a plain one that does what REINVENT does.

python -m benchmarks.chem_step [--prior FOLDER] [--turns N] [--batch N] [--threads N]

Both start from the same prior, draw batches of the same size, score them by QED and take the step of REINVENT's loss
with sigma = 128 and Adam at 1e-4. The plain step draws all rows until the last has ended, computes both likelihoods
over the padded batch, scores one molecule after the other in this process, and feeds padding to the networks. They
take turns of three steps, so that the machine's drift meets both; where some turns were undisturbed, those in which
other processes took over a tenth of a core are left out of the medians. CPU seconds are those of this process and of
those that it started. Likelihoods of both are compared on the same sequences.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from chem.scoring import Scoring
from chem.train import Learner, make_chem_objective, train_step
from conf.schema.chem import ChemConfig
from launch.cli.compose import compose_typed
from launch.engines.torch import TorchEngine
from launch.runs.rng import rollout_uniforms

SIGMA = 128.0
STEPS = 3  # of a turn


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


def largest_difference(prior: Prior, shares: ParallelSampler) -> float:
    """Of the log-likelihoods of 256 sampled molecules, as the policy and as the prior gives them; relative."""
    uniforms = rollout_uniforms(1, 0, [0] * 256, list(range(256)), prior.max_tokens)
    rollout, as_policy = shares.draw(uniforms)
    with torch.no_grad():
        plain = plain_logp(prior.network, rollout.tokens)  # type: ignore[arg-type]
        as_prior = token_logp(prior.network, rollout.tokens, rollout.mask, shares.cores)
        return max(float(((fast.sum(-1) - plain) / plain).abs().max()) for fast in (as_policy, as_prior))


class Turn(NamedTuple):
    """What a turn took: seconds and CPU seconds of ours a step, and CPU seconds of all others a second."""

    wall: float
    cpu: float
    others: float


def timed(step: Callable[[], object]) -> Turn:
    workers = psutil.Process().children(recursive=True)

    def own() -> float:
        return time.process_time() + sum(sum(worker.cpu_times()[:2]) for worker in workers)

    begun, before, busy = time.perf_counter(), own(), machine_busy()
    for _ in range(STEPS):
        step()
    wall, cpu = time.perf_counter() - begun, own() - before
    return Turn(wall / STEPS, cpu / STEPS, max(machine_busy() - busy - cpu, 0.0) / wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", type=Path, default=SHIPPED)
    parser.add_argument("--turns", type=int, default=10)
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
    turns: list[tuple[Turn, Turn]] = []
    cores = RowThreads(given.batch, given.threads)
    with (
        rdBase.BlockLogs(),
        Oracle(config.oracle) as oracle,
        ThreadPoolExecutor(1) as thread,
        cores,
        ParallelSampler(fast, cores) as shares,
    ):
        learner = Learner(
            prior,
            engine,
            make_chem_objective(config),
            Scoring(oracle, None, None),
            DiversityFilter(config.diversity_filter),
            ReplayMemory(config.replay, prior.tokenizer),
            thread,
            cores,
            shares,
        )
        numbers = count()
        for _ in range(given.turns + 1):
            plain_turn = timed(lambda: plain_step(prior, plain, optimizer, given.batch))  # type: ignore[arg-type]
            turn = timed(lambda: train_step(learner, config, next(numbers), config.objective.beta))
            turns.append((plain_turn, turn))
        with ParallelSampler(prior.network, cores) as of_prior:
            difference = largest_difference(prior, of_prior)
    del turns[0]  # it warms up
    quiet = [pair for pair in turns if max(turn.others for turn in pair) <= 0.1]
    middle = [Turn(*map(statistics.median, zip(*side, strict=True))) for side in zip(*(quiet or turns), strict=True)]
    result: dict[str, object] = {
        "batch": given.batch,
        "threads": given.threads,
        "turns": len(turns),
        "undisturbed": len(quiet),
        "largest_relative_difference": difference,
    }
    for name, turn in zip(("plain", "ours"), middle, strict=True):
        result |= {f"{name}/{key}": round(value, 3) for key, value in turn._asdict().items()}
        result[f"{name}/molecules_per_s"] = round(given.batch / turn.wall, 1)
    ratios = [plain_turn.wall / turn.wall for plain_turn, turn in quiet or turns]
    result["times_plain"] = round(statistics.median(ratios), 2)
    result["times_plain_quartiles"] = [round(value, 2) for value in statistics.quantiles(ratios, n=4)[::2]]
    result["times_plain_cpu"] = round(middle[0].cpu / middle[1].cpu, 2)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
