import pytest
import torch

from coldstart.exceptions import InvalidInputError
from coldstart.segmentation import build_network, resolve_device


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_initial_weights_depend_on_the_seed_alone(small_config):
    first = weights(build_network(small_config()))
    torch.manual_seed(99)
    torch.rand(3)
    assert torch.equal(first, weights(build_network(small_config(epochs=5, dropout=0.3))))
    assert not torch.equal(first, weights(build_network(small_config(random_state=1))))


def test_building_leaves_the_global_generator_alone(small_config):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build_network(small_config())
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(("dims", "size"), [(2, (32, 48)), (3, (32, 32, 32))])
def test_logits_lie_on_the_grid_of_the_input(small_config, dims, size):
    config = small_config(spatial_dims=dims, spatial_size=size, label_names=("a", "b"))
    with torch.inference_mode():
        assert build_network(config)(torch.zeros(1, 1, *size)).shape == (1, 3, *size)


def test_default_channels_are_the_papers(small_config):
    network = build_network(small_config(channels=(32, 64, 128, 256, 512)))
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert {32, 64, 128, 256, 512} <= {c.out_channels for c in convolutions}
    assert sum(c.stride == (2, 2) for c in convolutions) == 4


def test_dropout_of_the_config_is_in_the_network(small_config):
    rates = {m.p for m in build_network(small_config(dropout=0.1)).modules() if isinstance(m, torch.nn.Dropout)}
    assert 0.1 in rates


def test_auto_device_is_one_that_is_there():
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "mps", "meta", ""])
def test_unknown_device_is_refused(name):
    with pytest.raises(InvalidInputError, match="`device` must be auto, cpu, cuda or cuda:N"):
        resolve_device(name)


def test_absent_gpu_is_refused():
    with pytest.raises(InvalidInputError, match=r"must name a GPU of this machine, which has .* got 'cuda:77'"):
        resolve_device("cuda:77")
