"""Small random networks over a vocabulary of four tokens."""

import torch

from chem.models.network import Network
from chem.models.prior import make_network
from conf.schema.chem import NetworkConfig, RecurrentConfig, TransformerConfig

VOCABULARY = 4  # END, START and two others
CONFIGS: dict[str, NetworkConfig] = {
    "lstm": RecurrentConfig("lstm", layers=2, hidden=6, embedding=5, dropout=0.0),
    "gru": RecurrentConfig("gru", layers=1, hidden=6, embedding=5, dropout=0.0),
    "transformer": TransformerConfig("transformer", layers=2, width=8, heads=2, positions=8, dropout=0.0),
}


def random_network(config: NetworkConfig) -> Network:
    """In float64, with probabilities that are far from uniform."""
    torch.manual_seed(1)
    network = make_network(VOCABULARY, config).double().eval()
    with torch.no_grad():
        network.head.weight.mul_(3)
    return network
