"""Maximum-likelihood training of a prior: batches of similar length, validation, early stopping, best weights."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from chem.models.corpus import (
    Corpus,
    epoch_batches,
    randomise_encodable,
    randomise_smiles,
    read_corpus,
    split_rows,
)
from chem.models.network import Network, token_logp
from chem.models.prior import Prior, make_network, save_prior
from chem.models.prior_report import report_prior
from chem.models.prior_source import open_prior
from chem.models.tokenizer import Tokenizer, split_tokens
from chem.molecule_files import format_counts
from conf.schema.base import ConfigError
from conf.schema.chem import PretrainConfig
from launch.engines.factory import make_engine
from launch.runs.checkpoint import tensors_hash
from launch.runs.progress import working
from launch.runs.rng import stream_seed
from launch.runs.run import Run, Scalar

VALIDATION_BATCH = 512
VOCABULARY_EPOCHS = 2  # epochs of randomised SMILES from which the vocabulary is taken


class BestWeights:
    """The weights with the lowest validation loss so far.

    Attributes:
        weights: a copy of the network's state.
        loss: validation loss, nats per molecule.
        waited: number of validations since then.
    """

    def __init__(self, network: Network) -> None:
        self.weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        self.loss = float("inf")
        self.waited = 0

    def update(self, loss: float, network: Network) -> None:
        """Copy the weights if the loss is the lowest so far."""
        self.waited += 1
        if loss < self.loss:
            self.loss, self.waited = loss, 0
            self.weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"weights": self.weights, "loss": self.loss, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.weights, self.loss, self.waited = dict(state["weights"]), state["loss"], state["waited"]


class TrainingData:
    """Molecules for training and for validation, as token ids."""

    def __init__(self, corpus: Corpus, config: PretrainConfig, tokenizer: Tokenizer | None) -> None:
        training_rows, validation_rows = split_rows(len(corpus.smiles), config.validation_share, config.seed)
        self.smiles = [corpus.smiles[row] for row in training_rows]
        self.validation_smiles = [corpus.smiles[row] for row in validation_rows]
        self.config = config
        self.tokenizer = tokenizer or self._make_tokenizer()
        self.lengths = torch.tensor([len(split_tokens(smiles)) + 1 for smiles in self.smiles])
        self.batches_of_epoch = lru_cache(maxsize=2)(
            lambda epoch: epoch_batches(self.lengths, config.batch_size, config.seed, epoch)
        )

    @property
    def batches_per_epoch(self) -> int:
        """Training steps of one epoch."""
        return len(self.batches_of_epoch(0))

    def _make_tokenizer(self) -> Tokenizer:
        tokens = {token for smiles in self.smiles + self.validation_smiles for token in split_tokens(smiles)}
        if self.config.spelling == "randomised":
            for epoch in range(VOCABULARY_EPOCHS):
                randomised = (randomise_smiles(smiles, self.config.seed, epoch) for smiles in self.smiles)
                tokens.update(*map(split_tokens, randomised))
        return Tokenizer.from_tokens(tokens)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Tokens and mask [N, T] of the molecules of a step."""
        epoch, number = divmod(step, self.batches_per_epoch)
        rows = self.batches_of_epoch(epoch)[number].tolist()
        return self._encode([self.smiles[row] for row in rows], epoch)

    def _encode(self, smiles: list[str], epoch: int) -> tuple[Tensor, Tensor]:
        if self.config.spelling == "randomised":
            smiles = list(
                randomise_encodable(smiles, self.tokenizer, self.config.max_tokens, self.config.seed, epoch)
            )
        return self.tokenizer.encode_batch(smiles)

    def validation_batches(self) -> list[tuple[Tensor, Tensor]]:
        """Tokens and mask of the validation molecules, the same in every call."""
        by_length = sorted(self.validation_smiles, key=len)
        return [
            self._encode(by_length[first : first + VALIDATION_BATCH], -1)
            for first in range(0, len(by_length), VALIDATION_BATCH)
        ]


def train_prior(config: PretrainConfig, run: Run) -> None:
    """Read the molecules, train, save the prior with the best validation loss and write the report."""
    initial = load_initial_prior(config)
    with working("reading the molecules"):
        corpus = read_corpus(config.data, config.filter, run.folder, config.smiles_column)
    if initial is not None:
        corpus = keep_encodable(corpus, initial.tokenizer)
    run.info(f"molecules: {format_counts(corpus.counts)}")
    data = TrainingData(corpus, config, initial.tokenizer if initial is not None else None)
    torch.manual_seed(stream_seed(config.seed, "model"))
    network = initial.network if initial is not None else make_network(len(data.tokenizer), config.network)
    steps = config.epochs * data.batches_per_epoch
    engine = make_engine(config.engine.name, network, config.optimizer, steps)
    best = BestWeights(network)
    identity = {"data": corpus.origin["sha256"]}
    if initial is not None:
        identity["init"] = tensors_hash(network.named_parameters())
    run.register_state(identity, engine=engine, best=best)

    validation = data.validation_batches()
    mean_length = float(data.lengths.double().mean())
    evaluate_every = config.evaluate_every or data.batches_per_epoch
    shown = {"epoch": "epoch", "nats": "nll/molecule", "held out": "validation/molecule"}
    for step in run.steps(steps, show=shown):
        network.train()
        tokens, mask = data.batch(step)
        nll = -token_logp(network, tokens, mask).sum()
        engine.backward(nll / (len(tokens) * mean_length))  # about nats per token; long molecules weigh more
        grad_norm = engine.step()
        metrics: dict[str, Scalar] = {
            "epoch": (step + 1) / data.batches_per_epoch,
            "nll/molecule": nll.detach() / len(tokens),
            "nll/token": nll.detach() / mask.sum(),
            "grad_norm": grad_norm,
        }
        evaluate_now = (step + 1) % evaluate_every == 0 or step + 1 == steps
        if evaluate_now:
            loss = validation_loss(network, validation)
            best.update(loss, network)
            metrics |= {"validation/molecule": loss, "validation/best": best.loss}
        run.log(metrics)
        if evaluate_now and config.patience is not None and best.waited >= config.patience:
            run.info(f"stopped after step {step + 1}: no better validation loss in {best.waited} validations")
            break

    network.load_state_dict(best.weights)
    prior = Prior(network.eval(), data.tokenizer, config.network, config.max_tokens)
    save_prior(run.folder / "prior", prior)
    with working("writing the report"):
        report_prior(run, prior, corpus, data.smiles, samples=config.report_samples, seed=config.seed, loss=best.loss)


@torch.no_grad()
def validation_loss(network: Network, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Mean negative log-likelihood, nats per molecule. Leaves the network in evaluation mode."""
    network.eval()
    total = sum(float(-token_logp(network, tokens, mask).sum()) for tokens, mask in batches)
    return total / sum(len(tokens) for tokens, _ in batches)


def load_initial_prior(config: PretrainConfig) -> Prior | None:
    """The prior that training starts from, whose vocabulary is used; None for a new network.

    Raises:
        ConfigError: it has another network than the configuration.
    """
    if config.init is None:
        return None
    prior = open_prior("init", config.init)
    if prior.config != config.network:
        raise ConfigError(
            f"network: must be the network of init={config.init}, {vars(prior.config)}, got {vars(config.network)}"
        )
    return prior


def keep_encodable(corpus: Corpus, tokenizer: Tokenizer) -> Corpus:
    """Leave out the molecules with a token outside the vocabulary, and count them.

    Raises:
        ConfigError: fewer than two molecules remain.
    """
    vocabulary = set(tokenizer.tokens)
    encodable = [smiles for smiles in corpus.smiles if vocabulary.issuperset(split_tokens(smiles))]
    unknown = len(corpus.smiles) - len(encodable)
    if len(encodable) < 2:
        raise ConfigError(
            f"data: at least 2 molecules must have only tokens of init's vocabulary, got {len(encodable)} of "
            f"{len(corpus.smiles)}"
        )
    counts = corpus.counts | {"kept": len(encodable)} | ({"unknown token": unknown} if unknown else {})
    return corpus._replace(smiles=encodable, counts=counts)
