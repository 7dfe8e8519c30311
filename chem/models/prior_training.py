"""Maximum likelihood on SMILES: length-bucketed batches, validation, early stopping, the best weights kept."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from chem.models.corpus import Corpus, epoch_batches, read_corpus, respelled, spellings, split_rows
from chem.models.network import Network, token_logp
from chem.models.prior import SHIPPED, Prior, load_prior, make_network, save_prior
from chem.models.prior_report import report_prior
from chem.models.tokenizer import Tokenizer, split
from conf.schema.base import ConfigError
from conf.schema.chem import PretrainConfig
from launch.engines.factory import make_engine
from launch.runs.checkpoint import tensors_hash
from launch.runs.rng import stream_seed
from launch.runs.run import Run, Scalar
from launch.runs.run_folder import user_path

VALIDATION_BATCH = 512
VOCABULARY_EPOCHS = 2  # of random spellings, whose tokens a vocabulary for them has


class Best:
    """The weights with the lowest validation loss so far, and how many validations ago that was."""

    def __init__(self, network: Network) -> None:
        self.weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        self.loss = float("inf")  # nats per molecule
        self.waited = 0

    def update(self, loss: float, network: Network) -> None:
        self.waited += 1
        if loss < self.loss:
            self.loss, self.waited = loss, 0
            self.weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "loss": self.loss, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weights, self.loss, self.waited = dict(state["weights"]), state["loss"], state["waited"]


class Data:
    """Molecules to train on and molecules held out, as token ids."""

    def __init__(self, corpus: Corpus, config: PretrainConfig, tokenizer: Tokenizer | None) -> None:
        rows, held = split_rows(len(corpus.smiles), config.validation_share, config.seed)
        self.smiles = [corpus.smiles[row] for row in rows]
        self.held = [corpus.smiles[row] for row in held]
        self.config = config
        self.tokenizer = tokenizer or self._vocabulary()
        self.lengths = torch.tensor([len(split(smiles)) + 1 for smiles in self.smiles])
        self.batches_of = lru_cache(maxsize=2)(
            lambda epoch: epoch_batches(self.lengths, config.batch_size, config.seed, epoch)
        )

    def _vocabulary(self) -> Tokenizer:
        found = {token for smiles in self.smiles + self.held for token in split(smiles)}
        if self.config.spelling == "randomised":
            for epoch in range(VOCABULARY_EPOCHS):
                found.update(*(split(respelled(smiles, self.config.seed, epoch)) for smiles in self.smiles))
        return Tokenizer.of(found)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Tokens and mask [N, T] of a step's molecules."""
        epoch, place = divmod(step, len(self.batches_of(0)))
        rows = self.batches_of(epoch)[place].tolist()
        return self._encoded([self.smiles[row] for row in rows], epoch)

    def _encoded(self, smiles: list[str], epoch: int) -> tuple[Tensor, Tensor]:
        if self.config.spelling == "randomised":
            smiles = list(spellings(smiles, self.tokenizer, self.config.max_tokens, self.config.seed, epoch))
        return self.tokenizer.encode_batch(smiles)

    def validation(self) -> list[tuple[Tensor, Tensor]]:
        """Batches of the molecules held out, each time the same."""
        held = sorted(self.held, key=len)
        return [
            self._encoded(held[first : first + VALIDATION_BATCH], -1)
            for first in range(0, len(held), VALIDATION_BATCH)
        ]


def train(config: PretrainConfig, run: Run) -> None:
    """The whole job: read, filter, train, keep the best, save it, report."""
    start = starting_point(config)
    corpus = read_corpus(config.data, config.filter, run.folder)
    if start is not None:
        corpus = with_known_tokens(corpus, start.tokenizer)
    run.info("molecules: " + ", ".join(f"{reason} {count:,}" for reason, count in corpus.counts.items()))
    data = Data(corpus, config, start.tokenizer if start is not None else None)
    torch.manual_seed(stream_seed(config.seed, "model"))
    network = start.network if start is not None else make_network(len(data.tokenizer), config.network)
    an_epoch = len(data.batches_of(0))
    steps = config.epochs * an_epoch
    engine = make_engine(config.engine.name, network, config.optimizer, steps)
    best = Best(network)
    identity = {"data": corpus.origin["sha256"]}
    if start is not None:
        identity["init"] = tensors_hash(network.named_parameters())
    run.register_state(identity, engine=engine, best=best)

    validation = data.validation()
    mean_length = float(data.lengths.double().mean())
    every = config.evaluate_every or an_epoch
    shown = {"epoch": "epoch", "nats": "nll/molecule", "held out": "validation/molecule"}
    for step in run.steps(steps, show=shown):
        network.train()
        tokens, mask = data.batch(step)
        nll = -token_logp(network, tokens, mask).sum()
        engine.backward(nll / (len(tokens) * mean_length))  # nats per token, but long molecules weigh more
        grad_norm = engine.step()
        metrics: dict[str, Scalar] = {"epoch": (step + 1) / an_epoch, "nll/molecule": nll.detach() / len(tokens)}
        metrics |= {"nll/token": nll.detach() / mask.sum(), "grad_norm": grad_norm}
        due = (step + 1) % every == 0 or step + 1 == steps
        if due:
            loss = validation_loss(network, validation)
            best.update(loss, network)
            metrics |= {"validation/molecule": loss, "validation/best": best.loss}
        run.log(metrics)
        if due and config.patience is not None and best.waited >= config.patience:
            run.info(f"stopped after step {step + 1}: no better validation in {best.waited}")
            break

    network.load_state_dict(best.weights)
    prior = Prior(network.eval(), data.tokenizer, config.network, config.max_tokens)
    save_prior(run.folder / "prior", prior)
    report_prior(run, prior, corpus, data.smiles, samples=config.report_samples, seed=config.seed, loss=best.loss)


@torch.no_grad()
def validation_loss(network: Network, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Nats per molecule."""
    network.eval()
    total = sum(float(-token_logp(network, tokens, mask).sum()) for tokens, mask in batches)
    return total / sum(len(tokens) for tokens, _ in batches)


def starting_point(config: PretrainConfig) -> Prior | None:
    """The prior to go on from; it brings its vocabulary.

    Raises:
        ConfigError: it is of another network.
    """
    if config.init is None:
        return None
    prior = load_prior(SHIPPED if config.init == "shipped" else user_path(config.init))
    if prior.config != config.network:
        raise ConfigError(f"network: must be that of init, {vars(prior.config)}, got {vars(config.network)}")
    return prior


def with_known_tokens(corpus: Corpus, tokenizer: Tokenizer) -> Corpus:
    """Without the molecules that a vocabulary cannot spell, counted."""
    known = set(tokenizer.tokens)
    smiles = [one for one in corpus.smiles if known.issuperset(split(one))]
    lost = len(corpus.smiles) - len(smiles)
    if len(smiles) < 2:
        raise ConfigError(f"data: must hold at least 2 molecules that init's vocabulary can spell, got {len(smiles)}")
    counts = corpus.counts | {"kept": len(smiles)} | ({"unknown token": lost} if lost else {})
    return corpus._replace(smiles=smiles, counts=counts)
