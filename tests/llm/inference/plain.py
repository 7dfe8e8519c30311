"""The plain computation that the optimised ones are compared with."""

import torch


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
