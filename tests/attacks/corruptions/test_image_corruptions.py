"""Corruptions of images through torchvision: closed forms, bounds, refusals."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from snnrobust.common.random import Draws
from snnrobust.data.evaluation_data import prepare
from snnrobust.errors import InputError, MissingExtraError
from snnrobust.plugin.task import Task
from snnrobust.testing.corruptions import check_corruption
from snnrobust.wrapping.model import SpikingModel
from snnrobust.wrapping.wrap import wrap
from snnrobust_attacks.corruptions.blur import Blur
from snnrobust_attacks.corruptions.brightness import Brightness
from snnrobust_attacks.corruptions.contrast import Contrast
from snnrobust_attacks.corruptions.occlusion import Occlusion
from snnrobust_attacks.corruptions.rotation import Rotation

pytest.importorskip("torchvision")

EVERY: list[Any] = [Blur(), Brightness(), Brightness("darker"), Contrast(), Rotation(), Occlusion()]
RNG = Draws(3, "noise")
IDS = torch.arange(4)


def images(channels: int = 1, size: int = 8) -> Tensor:
    return torch.rand(4, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("plugin", EVERY, ids=repr)
def test_the_conformance_check_passes(plugin: Any) -> None:
    check_corruption("image", plugin)


@pytest.mark.parametrize("plugin", EVERY, ids=repr)
@pytest.mark.parametrize("channels", [1, 3])
def test_bounds_shape_and_type_are_kept_and_something_changes(plugin: Any, channels: int) -> None:
    for dtype in (torch.float32, torch.float64):
        x = images(channels).to(dtype)
        out = plugin.apply(x, 0.7, RNG, IDS)
        assert out.shape == x.shape
        assert out.dtype == dtype
        assert out.min() >= -1e-6
        assert out.max() <= 1 + 1e-6
        assert not torch.equal(out, x)
        assert plugin.apply(x, 0.0, RNG, IDS) is x


def test_blur_is_a_convolution_with_a_gaussian() -> None:
    x = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    x[0, 0, 7, 7] = 1
    out = Blur().apply(x, 1.2, RNG, torch.arange(1))[0, 0]
    along = torch.exp(-(torch.arange(-4.0, 5.0, dtype=torch.float64) ** 2) / (2 * 1.2**2))
    along /= along.sum()
    assert torch.allclose(out[3:12, 3:12], along[:, None] * along, atol=1e-9)
    assert Blur().apply(images(size=3), 9.0, RNG, IDS).isfinite().all()  # a kernel larger than the image


def test_brightness_and_contrast_in_closed_form() -> None:
    x = images()
    assert torch.allclose(Brightness().apply(x, 0.5, RNG, IDS), (1.5 * x).clamp(max=1))
    assert torch.allclose(Brightness("darker").apply(x, 1.0, RNG, IDS), x / 2)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    assert torch.allclose(Contrast().apply(x, 0.3, RNG, IDS), 0.7 * x + 0.3 * mean, atol=1e-6)


@pytest.mark.parametrize(
    ("plugin", "moved"),
    [
        (Brightness(), Brightness(low=-1.0, high=3.0)),
        (Contrast(), Contrast(low=-1.0, high=3.0)),
        (Rotation(), Rotation(low=-1.0, high=3.0)),
    ],
    ids=repr,
)
def test_other_bounds_are_another_scale_of_the_same(plugin: Any, moved: Any) -> None:
    x = images()
    out = moved.apply(4 * x - 1, 0.4, RNG, IDS)
    assert torch.allclose(out, 4 * plugin.apply(x, 0.4, RNG, IDS) - 1, atol=1e-5)


def test_a_right_angle_is_exact_and_what_comes_in_is_black() -> None:
    x = images(3, 7)
    assert torch.allclose(Rotation().apply(x, 90.0, RNG, IDS), x.rot90(1, (2, 3)), atol=1e-5)
    turned = Rotation(low=-1.0).apply(torch.ones(1, 1, 8, 8), 45.0, RNG, torch.arange(1))
    assert turned[0, 0, 0, 0] == -1


def test_occlusion_hides_its_share_at_a_place_of_each_sample() -> None:
    x = torch.ones(300, 1, 10, 10)
    out = Occlusion(fill=0.25).apply(x, 0.25, RNG, torch.arange(300))
    hidden = out[:, 0] == 0.25
    assert hidden.flatten(1).sum(dim=1).eq(25).all()
    assert len({tuple(each.nonzero()[0].tolist()) for each in hidden}) > 25  # of 36 places
    assert torch.equal(Occlusion().apply(x, 1.0, RNG, torch.arange(300)), torch.zeros_like(x))


def model(channels: int = 1, **settings: Any) -> SpikingModel:
    net = nn.Sequential(nn.Flatten(2), nn.Linear(channels * 64, 2), neuron.IFNode(step_mode="m"))
    return wrap(net, **{"steps": 2, **settings})


@pytest.mark.parametrize(
    ("plugin", "settings", "shape"),
    [
        *[(plugin, {"domain": "binary"}, (1, 8, 8)) for plugin in EVERY],
        *[(plugin, {}, (64,)) for plugin in EVERY],
        (Brightness(), {"bounds": (-1, 1)}, (1, 8, 8)),
        (Rotation(), {"bounds": (-1, 1)}, (1, 8, 8)),
        (Occlusion(fill=2.0), {}, (1, 8, 8)),
        (Contrast(), {}, (2, 8, 8)),
    ],
    ids=repr,
)
def test_check_refuses_what_does_not_fit(plugin: Any, settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    data = prepare((torch.zeros(2, *shape), torch.zeros(2, dtype=torch.long)), 2)
    with pytest.raises(InputError, match=r"expected .*, got .*; (for events use|pass|use)"):
        plugin.check(model(**settings), data, Task("n", "n", "noise", "", plugin, (0.5,)))


def test_without_torchvision_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2.functional", None)
    data = prepare((torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.long)), 2)
    with pytest.raises(MissingExtraError, match=r"snnrobust\[data\]"):
        Blur().check(model(), data, Task("n", "n", "noise", "", Blur(), (0.5,)))


def test_settings_out_of_range() -> None:
    with pytest.raises(InputError, match="low < high"):
        Contrast(1.0, 0.0)
    with pytest.raises(InputError, match="did you mean 'darker'"):
        Brightness("dark")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        Contrast().apply(images(), 1.5, RNG, IDS)
    with pytest.raises(InputError, match="finite severity"):
        Rotation().apply(images(), -3.0, RNG, IDS)
