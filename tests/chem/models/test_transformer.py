"""The transformer: causal, and the same with and without its cache."""

import torch

from chem.models.transformer import Transformer, TransformerReader
from conf.schema.chem import TransformerConfig

TOKENS = torch.randint(0, 6, (4, 7), generator=torch.Generator().manual_seed(0))


def make(dropout=0.0):
    torch.manual_seed(0)
    config = TransformerConfig("transformer", layers=2, width=8, heads=2, positions=7, dropout=dropout)
    network = Transformer(6, config).double().eval()
    with torch.no_grad():
        network.position.weight.mul_(50)  # its initial values are small
    return network


def test_hidden_states_do_not_depend_on_later_tokens():
    network = make()
    expected = network.hidden(TOKENS)
    changed = TOKENS.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 6
    torch.testing.assert_close(network.hidden(changed)[:, :4], expected[:, :4])
    assert (network.hidden(changed)[:, 4:] - expected[:, 4:]).abs().max(0).values.min(-1).values.min() > 0  # control


def test_the_reader_gives_the_hidden_states_of_the_whole_sequence():
    network = make()
    expected = network.hidden(TOKENS)
    reader = network.reader(4)
    assert isinstance(reader, TransformerReader)
    for t in range(4):
        torch.testing.assert_close(reader.step(TOKENS[:, t]), expected[:, t])
    rows = torch.tensor([0, 3])
    reader.keep(rows)
    for t in range(4, 7):
        torch.testing.assert_close(reader.step(TOKENS[rows, t]), expected[rows, t])


def test_attention_uses_positions():
    network = make()
    swapped = TOKENS[:1].clone()
    swapped[0, :2] = torch.tensor([1, 2])
    hidden = [network.hidden(row)[0, 6] for row in (swapped, swapped[:, [1, 0, 2, 3, 4, 5, 6]])]
    assert (hidden[0] - hidden[1]).abs().max() > 1e-6
    assert network.max_positions == 7


def test_dropout_is_only_active_in_training():
    network = make(dropout=0.5)
    assert torch.equal(network.hidden(TOKENS), network.hidden(TOKENS))
    network.train()
    assert not torch.equal(network.hidden(TOKENS), network.hidden(TOKENS))
