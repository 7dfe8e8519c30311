"""A step on many GPUs, on paper: what a rank holds, sends and waits for, under ZeRO-3 with servers that sample.

Times are bytes over bandwidth and operations over the card's peak: lower bounds, to see what grows with the ranks.
"""

from dataclasses import dataclass
from typing import NamedTuple

ADAM_BYTES = 12  # float32 master weight and two moments of a weight
GRADIENT_BYTES = 4  # float32, as a partition of a rank
# What `gather_experience` and `backward_through_logp` gather of each position of the padded completions: float32
# log-probabilities of the reference and of the policy, its entropies, and the mask.
POSITION_BYTES = 4 + 4 + 4 + 1
TEXT_BYTES = 4  # of a token in the texts that ranks exchange as JSON


@dataclass(frozen=True)
class Card:
    """A card and its links, all per card.

    flops: dense bf16 operations per second. memory: bytes. link: bytes per second to other nodes, in each direction.
    """

    flops: float
    memory: float
    link: float


# NVIDIA's data sheets of the H100 SXM (989 Tflop/s, 80 GB) and of the DGX H100 (eight cards with a ConnectX-7 of 400
# Gb/s each).
H100 = Card(flops=989e12, memory=80e9, link=400e9 / 8)


@dataclass(frozen=True)
class StepWork:
    """What a step processes, all ranks together.

    prompts, group_size: P and G. prompt_tokens, new_tokens: of each prompt and completion.
    micro_batches: passes of each rank over its completions.
    """

    prompts: int
    group_size: int
    prompt_tokens: int
    new_tokens: int
    micro_batches: int = 1

    @property
    def positions(self) -> int:
        """Positions of the padded completions, P * G * T."""
        return self.prompts * self.group_size * self.new_tokens

    @property
    def tokens(self) -> int:
        """Tokens that a pass reads, each prompt once."""
        return self.prompts * self.prompt_tokens + self.positions


class RankStep(NamedTuple):
    """A step of one rank; bytes, and seconds.

    state: weights, gradients, master weights and moments, partitioned. reference: the frozen model, which every rank
    holds whole. gathered_weights: received for the passes of the step. reduced_gradients: sent. gathered_positions:
    log-probabilities, entropies and masks of all completions, held and received. gathered_texts: received.
    server_weights: sent to each server in all. computing: of the passes. waiting_for_weights: for gathering and
    reducing if nothing overlaps. waiting_for_positions, waiting_for_server: for these alone.
    """

    state: float
    reference: float
    gathered_weights: float
    reduced_gradients: float
    gathered_positions: float
    gathered_texts: float
    server_weights: float
    computing: float
    waiting_for_weights: float
    waiting_for_positions: float
    waiting_for_server: float


def rank_step(parameters: int, work: StepWork, ranks: int, card: Card = H100, server_cards: int = 4) -> RankStep:
    """The step of a rank.

    ZeRO-3 gathers the weights for the forward and for the backward pass of each micro-batch, and reduces the gradient
    once for each (Rajbhandari et al., 2020, arXiv:1910.02054, section 7: 3 times the weights in a step of one
    micro-batch). With several micro-batches there is a further forward pass, without gradient. The reference is not
    partitioned, so that its pass gathers nothing.

    Args:
        parameters: of the model, in bfloat16, all trained.
        work: of the step.
        ranks: n.
        card: of each rank.
        server_cards: cards of a server, each of which receives its part of the weights on a link of its own.
    """
    weights = 2 * parameters
    received_share = (ranks - 1) / ranks
    forwards = work.micro_batches * (2 if work.micro_batches > 1 else 1)
    gathered = (forwards + work.micro_batches) * weights * received_share
    reduced = work.micro_batches * weights * received_share
    positions = float(POSITION_BYTES * work.positions)
    # Forward passes of reference and policy, and a backward pass that costs two of them.
    passes = 3 + forwards / work.micro_batches
    return RankStep(
        state=(weights + GRADIENT_BYTES * parameters + ADAM_BYTES * parameters) / ranks,
        reference=float(weights),
        gathered_weights=gathered,
        reduced_gradients=reduced,
        gathered_positions=positions,
        gathered_texts=float(TEXT_BYTES * work.positions),
        server_weights=float(weights),
        computing=passes * 2 * parameters * work.tokens / ranks / card.flops,
        waiting_for_weights=(gathered + reduced) / card.link,
        waiting_for_positions=positions * received_share / card.link,
        waiting_for_server=weights / server_cards / card.link,
    )


def ranks_where_positions_equal_state(parameters: int, work: StepWork) -> float:
    """The number of ranks from which the gathered positions take more memory than a rank's partition of the state."""
    return (2 + GRADIENT_BYTES + ADAM_BYTES) * parameters / (POSITION_BYTES * work.positions)


class Checkpoint(NamedTuple):
    """A checkpoint that one rank writes, and one in which each rank writes its part.

    bytes: of the file, and of rank 0's memory while it is gathered. gathering, writing: seconds, in which all ranks
    wait. sharded: seconds if each rank writes its own part, to a file system of `system` bytes per second.
    """

    bytes: float
    gathering: float
    writing: float
    sharded: float

    def share(self, every_seconds: float) -> float:
        """The share of the time that all ranks wait, with a checkpoint after each `every_seconds` of training."""
        waiting = self.gathering + self.writing
        return waiting / (waiting + every_seconds)


def checkpoint(
    parameters: int, ranks: int, card: Card = H100, writer: float = 2e9, system: float = 100e9
) -> Checkpoint:
    """The checkpoint of a model whose weights are all trained.

    Args:
        parameters: of the model.
        ranks: n.
        card: its link is what each rank receives the whole state by.
        writer: bytes per second that one process writes.
        system: bytes per second that the file system takes from all ranks together.
    """
    size = float(ADAM_BYTES * parameters)
    per_rank = size / ranks / writer
    return Checkpoint(size, size / card.link, size / writer, max(per_rank, size / system))
