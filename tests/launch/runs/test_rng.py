import torch

from launch.runs.rng import rollout_uniforms, stream_seed, torch_generator


def test_streams_differ_by_seed_and_by_key():
    seeds = [
        stream_seed(seed, *key) for seed in range(20) for key in (("model",), ("data", 0), ("data", 1), ("rollout",))
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert stream_seed(0, "model") == stream_seed(0, "model")
    a, b = (torch.rand(4, generator=torch_generator(seed, "model")) for seed in (0, 1))
    assert not torch.equal(a, b)


def test_a_row_depends_on_its_key_alone():
    prompts, completions = [0, 0, 1, 1, 2], [0, 1, 0, 1, 0]
    whole = rollout_uniforms(0, 7, prompts, completions, 5)
    order = [3, 0, 4]
    some = rollout_uniforms(0, 7, [prompts[i] for i in order], [completions[i] for i in order], 5)
    assert torch.equal(some, whole[order])
    assert torch.equal(
        rollout_uniforms(0, 7, prompts, completions, 3), whole[:, :3]
    )  # a longer limit adds at the end
    others = [rollout_uniforms(1, 7, prompts, completions, 5), rollout_uniforms(0, 8, prompts, completions, 5)]
    rows = torch.cat([whole, *others])
    assert len(torch.unique(rows, dim=0)) == len(rows)  # control: every other key is another row


def test_they_are_uniform():
    n = 20_000
    values = rollout_uniforms(0, 0, [0] * n, list(range(n)), 2).flatten()
    assert values.dtype == torch.float64
    assert values.min() >= 0
    assert values.max() < 1
    shares = torch.histc(values, 20, 0, 1) / len(values)
    assert (shares - 0.05).abs().max() < 0.005
    pairs = values.view(n, 2) - 0.5
    assert abs((pairs[:, 0] * pairs[:, 1]).mean()) < 0.002  # neighbours are uncorrelated (sd 1/12/sqrt(n) = .0006)
