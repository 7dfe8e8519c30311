"""Sampling in worker processes gives the same numbers as sampling here, and no worker outlives the run."""

import subprocess
import sys

import psutil
import pytest
import torch

from chem.models.lstm_kernel import lstm_parameters
from chem.models.network import sample, token_logp
from chem.models.prior import make_network
from chem.models.tokenizer import END_ID
from chem.parallel.processes import IGNORED_SIGNALS
from chem.parallel.sampler import LocalWorker, ParallelSampler
from chem.parallel.threads import RowThreads
from conf.schema.chem import RecurrentConfig

from ..networks import CONFIGS, VOCABULARY, random_network

ROWS = 70  # in two parts

RUN = """
import sys
import torch
from chem.parallel.threads import RowThreads
from chem.models.prior import make_network
from chem.parallel.sampler import ParallelSampler
from conf.schema.chem import RecurrentConfig

network = make_network(9, RecurrentConfig("lstm", layers=1, hidden=8, embedding=4, dropout=0.0))
with RowThreads(64, 2) as row_threads, ParallelSampler(network, row_threads) as sampler:
    for _ in range(2):
        sampler.draw(torch.rand(64, 5, dtype=torch.float64))
        print(sampler.processes[0].process.pid, flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def network():
    torch.manual_seed(3)
    return make_network(11, RecurrentConfig("lstm", layers=2, hidden=24, embedding=7, dropout=0.0)).eval()


@pytest.fixture
def sampler(network):
    with RowThreads(ROWS, 2) as row_threads, ParallelSampler(network, row_threads) as sampler:
        yield sampler


def uniforms(seed):
    return torch.rand(ROWS, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_with_gradients(sampler, seed):
    """Rollout, log-probabilities and gradients of a weighted sum of them."""
    rollout, logp = sampler.draw(uniforms(seed))
    (logp.sum(-1) * torch.linspace(-1, 1, ROWS)).sum().backward()
    gradients = [p.grad.clone() for p in lstm_parameters(sampler.network.lstm)]
    sampler.network.zero_grad()
    return rollout, logp, gradients


@pytest.mark.parametrize(("threads", "block"), [(1, 150), (3, 10)])  # blocks of several steps, and of one or a few
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_draw_has_the_log_probabilities_and_gradient_of_a_second_forward_pass(kind, threads, block, monkeypatch):
    network = random_network(CONFIGS[kind])
    monkeypatch.setattr("chem.models.lstm_kernel.BLOCK", block)
    uniforms = torch.rand(100, 9, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    weights = torch.rand(100, 1, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    if isinstance(network.max_positions, int):
        uniforms = uniforms[:, : network.max_positions]

    def gradients(logp):
        return torch.autograd.grad((weights * logp).sum(), list(network.parameters()), retain_graph=True)

    with RowThreads(100, threads) as row_threads, ParallelSampler(network, row_threads) as sampler:
        assert row_threads.count == threads
        rollout, logp = sampler.draw(uniforms)
        plain = sample(network, uniforms)
        assert all(map(torch.equal, rollout, plain))
        assert not rollout.complete.all()
        second_pass = token_logp(network, rollout.tokens, rollout.mask)
        torch.testing.assert_close(logp, second_pass, rtol=1e-12, atol=1e-12)
        draw_gradients = gradients(logp)
    torch.testing.assert_close(draw_gradients, gradients(second_pass), rtol=1e-10, atol=1e-12)
    with RowThreads(100, threads) as row_threads:
        in_threads = token_logp(network, rollout.tokens, rollout.mask, row_threads)
        assert torch.equal(in_threads, second_pass)
        assert not in_threads.requires_grad
    tokens = rollout.tokens.clone()  # control: one token of one row is different
    tokens[7, 0] = next(i for i in range(VOCABULARY) if i not in (END_ID, int(tokens[7, 0])))
    changed = token_logp(network, tokens, rollout.mask)
    assert (changed - logp).abs().max() > 1e-3
    assert max(float((a - b).abs().max()) for a, b in zip(gradients(changed), draw_gradients, strict=True)) > 1e-3


def test_a_worker_process_gives_what_is_sampled_here_bit_for_bit(network, sampler):
    assert len(sampler.processes) == 1
    for step in range(3):
        rollout, logp, gradients = draw_with_gradients(sampler, step)
        local = ParallelSampler(network, sampler.row_threads)
        local.processes[0].close()
        local.workers = [LocalWorker(network), LocalWorker(network)]
        local_rollout, local_logp, local_gradients = draw_with_gradients(local, step)
        pairs = zip((*rollout, logp, *gradients), (*local_rollout, local_logp, *local_gradients), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
        before = logp.detach()
        with torch.no_grad():  # the worker process must follow
            for parameter in network.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step))
        after = sampler.draw(uniforms(step))[1].detach()
        assert before.shape != after.shape or not torch.equal(before[ROWS // 2 :], after[ROWS // 2 :])  # control


def test_a_gradient_after_the_next_draw_is_refused(sampler):
    late = sampler.draw(uniforms(0))[1]
    sampler.draw(uniforms(1))
    with pytest.raises(RuntimeError, match=r"call backward\(\) before the next draw"):
        late.sum().backward()


def test_a_worker_process_that_dies_is_reported(sampler):
    sampler.draw(uniforms(0))
    sampler.processes[0].process.kill()
    with pytest.raises(RuntimeError, match=r"a process that samples molecules ended unexpectedly, exit status -9$"):
        sampler.draw(uniforms(1))


def test_other_networks_and_one_core_need_no_process(network):
    gru = make_network(11, RecurrentConfig("gru", layers=1, hidden=8, embedding=7, dropout=0.0))
    with_dropout = make_network(11, RecurrentConfig("lstm", layers=2, hidden=8, embedding=7, dropout=0.5)).train()
    for other, threads in ((gru, 2), (with_dropout, 2), (network, 1)):
        with RowThreads(ROWS, threads) as row_threads, ParallelSampler(other, row_threads) as sampler:
            assert not sampler.processes
            rollout, logp, gradients = draw_with_gradients(sampler, 0)
            assert logp.shape == rollout.tokens.shape
            assert any(bool(g.any()) for g in gradients)


def test_no_process_is_left_behind(network):
    with RowThreads(ROWS, 2) as row_threads, ParallelSampler(network, row_threads) as sampler:
        pid = sampler.processes[0].process.pid
    assert not psutil.pid_exists(pid)
    run = subprocess.Popen([sys.executable, "-c", RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker = psutil.Process(int(run.stdout.readline()))
    for number in IGNORED_SIGNALS:
        worker.send_signal(number)
    print(file=run.stdin, flush=True)
    assert int(run.stdout.readline()) == worker.pid
    assert worker.is_running()
    run.kill()
    run.wait()
    gone, _ = psutil.wait_procs([worker], timeout=20)
    assert gone
