"""The plain computation that the optimised ones are compared with."""

import torch

from llm.inference import logprobs
from llm.inference.prompts import Prompts, pad_completions

VOCAB = 60


def plain_logp(model, prompts, tokens, mask):
    """Log-probabilities from each prompt and completion as one unpadded sequence, all logits at once."""
    group = len(tokens) // len(prompts.ids)
    rows = []
    for row in range(len(tokens)):
        prompt = prompts.ids[row // group][prompts.mask[row // group]]
        completion = tokens[row][mask[row]]
        logits = model(input_ids=torch.cat([prompt, completion]).unsqueeze(0), use_cache=False).logits[0]
        logp = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(-1, completion.unsqueeze(-1)).squeeze(-1)
        rows.append(torch.nn.functional.pad(logp, (0, tokens.shape[1] - len(completion))))
    return torch.stack(rows)


def make_prompts(*lengths):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCAB, (len(lengths), max(lengths)), generator=generator)
    return Prompts(ids, torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths).unsqueeze(-1))


def make_completions(lengths):
    generator = torch.Generator().manual_seed(2)
    return pad_completions([torch.randint(VOCAB, (n,), generator=generator).tolist() for n in lengths], 0)


def difference(model, prompts, tokens, mask):
    """Largest errors against the plain computation: of log-probabilities, and of gradients over the largest one."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weight = torch.randn(mask.shape, generator=torch.Generator().manual_seed(3)) * mask
    values, grads = [], []
    for logp_of in (logprobs.completion_logp, plain_logp):
        value = logp_of(model, prompts, tokens, mask).float()
        values.append(value.detach())
        grad = torch.autograd.grad((value * weight).sum(), parameters, allow_unused=True)
        grads.append([torch.zeros(()) if g is None else g.float() for g in grad])
    scale = max(g.abs().max() for g in grads[1])
    grad_error = max((a - b).abs().max() for a, b in zip(*grads, strict=True))
    return float((values[0] - values[1]).abs().max()), float(grad_error / scale)
