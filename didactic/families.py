"""Families of policies over the outcomes of a problem. One module holds the policies of all cells of its family."""

import torch
from torch import Tensor, nn


class Categorical(nn.Module):
    """One logit per outcome, so that any distribution can be represented.

    Args:
        start: [C, A] log-probabilities of the policies before the first step.
        position: not used.
    """

    def __init__(self, start: Tensor, position: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(start.clone())

    def forward(self) -> Tensor:
        """[C, A] log-probabilities."""
        return self.logits.log_softmax(-1)


class Gaussian(nn.Module):
    """A normal density with trained mean and standard deviation, discretised at evenly spaced positions.

    Args:
        start: [C, A] log-probabilities; each policy begins with the mean and standard deviation of its row.
        position: [A].
    """

    def __init__(self, start: Tensor, position: Tensor) -> None:
        super().__init__()
        self.position: Tensor
        self.register_buffer("position", position)
        mean = (start.exp() * position).sum(-1)
        variance = (start.exp() * (position - mean.unsqueeze(-1)).square()).sum(-1)
        self.mean = nn.Parameter(mean)
        self.log_std = nn.Parameter(variance.log() / 2)

    def forward(self) -> Tensor:
        """[C, A] log-probabilities, normalised over the positions."""
        z = (self.position - self.mean.unsqueeze(-1)) / self.log_std.exp().unsqueeze(-1)
        return (-z.square() / 2).log_softmax(-1)


FAMILIES: dict[str, type[Categorical] | type[Gaussian]] = {"categorical": Categorical, "gaussian": Gaussian}


class Policies(nn.Module):
    """All policies of a grid, in one module per family.

    Args:
        families: family of each cell.
        start: [C, A] log-probabilities before the first step.
        position: [A].
    """

    def __init__(self, families: list[str], start: Tensor, position: Tensor) -> None:
        super().__init__()
        self.rows = {
            name: [i for i, family in enumerate(families) if family == name] for name in dict.fromkeys(families)
        }
        self.parts = nn.ModuleDict({name: FAMILIES[name](start[rows], position) for name, rows in self.rows.items()})
        self.order = torch.tensor([row for rows in self.rows.values() for row in rows]).argsort()

    def forward(self) -> Tensor:
        """[C, A] log-probabilities, in the order of the cells."""
        return torch.cat([part() for part in self.parts.values()])[self.order]
