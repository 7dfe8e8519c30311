"""Runs whose policy is known exactly: at each step, each completion as often as its probability says."""

import math

from core.diagnosis.samples import Sample


def tabular_run(path, steps, rewards, ref=None, *, per_step=100, prompt="p", answers=None, scored=True, start=0):
    """Samples of a run.

    Args:
        path: step -> probability of each completion, a multiple of 1 / per_step.
        steps: number of steps.
        rewards: reward of each completion.
        ref: the reference's probability of each; None: no log-probabilities.
        answers: name of the answer that each spells; None: itself.
        per_step: samples of a step.
        prompt: its name.
        scored: whether the policy's log-probabilities are there as well.
        start: the first step.
    """
    samples = []
    for step in range(start, start + steps):
        for number, probability in enumerate(path(step)):
            count = round(probability * per_step)
            assert abs(count - probability * per_step) < 1e-9
            logp = math.log(probability) if count and scored and ref is not None else None
            ref_logp = None if ref is None else math.log(ref[number])
            answer = f"a{number}" if answers is None else answers[number]
            samples += [Sample(step, prompt, answer, f"text {number}", rewards[number], logp, ref_logp)] * count
    return samples
