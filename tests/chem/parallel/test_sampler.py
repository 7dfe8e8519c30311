"""Shares of a batch in processes of their own: the same numbers as here, and none outlives the run."""

import subprocess
import sys

import psutil
import pytest
import torch

from chem.models.lstm_kernel import parameters
from chem.models.prior import make_network
from chem.parallel.processes import SPARED
from chem.parallel.sampler import LocalWorker, ParallelSampler
from chem.parallel.threads import RowThreads
from conf.schema.chem import RecurrentConfig

ROWS = 70  # in two shares

HOLDER = """
import sys
import torch
from chem.parallel.threads import RowThreads
from chem.models.prior import make_network
from chem.parallel.sampler import ParallelSampler
from conf.schema.chem import RecurrentConfig

network = make_network(9, RecurrentConfig("lstm", layers=1, hidden=8, embedding=4, dropout=0.0))
with RowThreads(64, 2) as cores, ParallelSampler(network, cores) as shares:
    for _ in range(2):
        shares.draw(torch.rand(64, 5, dtype=torch.float64))
        print(shares.helpers[0].process.pid, flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def network():
    torch.manual_seed(3)
    return make_network(11, RecurrentConfig("lstm", layers=2, hidden=24, embedding=7, dropout=0.0)).eval()


@pytest.fixture
def shares(network):
    with RowThreads(ROWS, 2) as cores, ParallelSampler(network, cores) as shares:
        yield shares


def uniforms(seed):
    return torch.rand(ROWS, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(shares, seed):
    """Rollout, log-probabilities and gradient of a weighted sum of them."""
    rollout, logp = shares.draw(uniforms(seed))
    (logp.sum(-1) * torch.linspace(-1, 1, ROWS)).sum().backward()
    gradients = [p.grad.clone() for p in parameters(shares.network.lstm)]
    shares.network.zero_grad()
    return rollout, logp, gradients


def test_a_helper_gives_what_is_drawn_here_bit_for_bit(network, shares):
    assert len(shares.helpers) == 1
    for step in range(3):
        ours = drawn(shares, step)
        apart = ParallelSampler(network, shares.cores)
        apart.helpers[0].close()
        apart.drawers = [LocalWorker(network), LocalWorker(network)]
        plain = drawn(apart, step)
        for one, other in zip((*ours[0], ours[1], *ours[2]), (*plain[0], plain[1], *plain[2]), strict=True):
            assert torch.equal(one, other)
        before = ours[1].detach()
        with torch.no_grad():  # the helper is to follow
            for parameter in network.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step))
        again = shares.draw(uniforms(step))[1].detach()
        assert before.shape != again.shape or not torch.equal(before[ROWS // 2 :], again[ROWS // 2 :])  # control


def test_a_gradient_that_comes_too_late_is_refused(shares):
    late = shares.draw(uniforms(0))[1]
    shares.draw(uniforms(1))
    with pytest.raises(RuntimeError, match="before the next draw"):
        late.sum().backward()


def test_a_helper_that_dies_is_said(shares):
    shares.draw(uniforms(0))
    shares.helpers[0].process.kill()
    with pytest.raises(RuntimeError, match=r"draws a share of the batch has ended, status -9$"):
        shares.draw(uniforms(1))


def test_other_networks_and_one_core_need_no_helper(network):
    gru = make_network(11, RecurrentConfig("gru", layers=1, hidden=8, embedding=7, dropout=0.0))
    dropping = make_network(11, RecurrentConfig("lstm", layers=2, hidden=8, embedding=7, dropout=0.5)).train()
    for other, threads in ((gru, 2), (dropping, 2), (network, 1)):
        with RowThreads(ROWS, threads) as cores, ParallelSampler(other, cores) as shares:
            assert not shares.helpers
            rollout, logp, gradients = drawn(shares, 0)
            assert logp.shape == rollout.tokens.shape
            assert any(bool(g.any()) for g in gradients)


def test_no_helper_is_left_behind(network):
    with RowThreads(ROWS, 2) as cores, ParallelSampler(network, cores) as shares:
        pid = shares.helpers[0].process.pid
    assert not psutil.pid_exists(pid)
    command = [sys.executable, "-c", HOLDER]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    helper = psutil.Process(int(holder.stdout.readline()))
    for number in SPARED:
        helper.send_signal(number)
    print(file=holder.stdin, flush=True)
    assert int(holder.stdout.readline()) == helper.pid
    assert helper.is_running()
    holder.kill()
    holder.wait()
    gone, _ = psutil.wait_procs([helper], timeout=20)
    assert gone
