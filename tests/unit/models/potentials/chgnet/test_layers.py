from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch.nn.functional import layer_norm, silu

from models.potentials.chgnet import kernel
from models.potentials.chgnet.kernel import Rows
from models.potentials.chgnet.layers import Gated, passed

WIDTH = 64


def parameters(n_parts: int, *, deep: bool, seed: int = 0) -> dict[str, torch.Tensor]:
    """A perceptron's parameters under the names of the package's checkpoints."""
    make = torch.Generator().manual_seed(seed)
    found = {}
    for mlp in ("mlp_core", "mlp_gate"):
        shapes = {0: n_parts * WIDTH, 3: WIDTH} if deep else {1: n_parts * WIDTH}
        for place, width in shapes.items():
            found[f"x.{mlp}.layers.{place}.weight"] = torch.randn(WIDTH, width, generator=make) / 8
            found[f"x.{mlp}.layers.{place}.bias"] = torch.randn(WIDTH, generator=make)
    for norm in ("bn1", "bn2"):
        found[f"x.{norm}.weight"] = 1 + torch.randn(WIDTH, generator=make) / 4
        found[f"x.{norm}.bias"] = torch.randn(WIDTH, generator=make) / 4
    return found


def as_written(p: dict[str, torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """The perceptron on joined features, as its paper has it."""
    halves = []
    for mlp, norm in (("mlp_core", "bn1"), ("mlp_gate", "bn2")):
        places = sorted({int(key.split(".")[3]) for key in p if mlp in key})
        x = features
        for place in places:
            x = x @ p[f"x.{mlp}.layers.{place}.weight"].double().T + p[f"x.{mlp}.layers.{place}.bias"].double()
            x = silu(x) if place == 0 else x
        halves.append(layer_norm(x, (WIDTH,), p[f"x.{norm}.weight"].double(), p[f"x.{norm}.bias"].double()))
    return silu(halves[0]) * torch.sigmoid(halves[1])


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("n", [1, 5, 48, 101])
@pytest.mark.parametrize(("n_parts", "deep", "receives"), [(3, True, True), (4, True, True), (4, False, False)])
def test_a_layer_is_its_definition_with_its_gradients(
    n: int, n_parts: int, deep: bool, receives: bool, compiled: bool
) -> None:
    p = parameters(n_parts, deep=deep, seed=n)
    layer = Gated.of(p, "x", n_parts, torch.float32, compiled)
    torch.manual_seed(n)
    features = [(20 * torch.randn(size, WIDTH)).requires_grad_() for size in (7, 9, 4)]
    own = torch.randn(n, WIDTH, requires_grad=True) if n_parts == 4 else None
    scales = torch.rand(9, WIDTH, requires_grad=True)
    indices = [torch.randint(size, (n,)) for size in (7, 9, 4)]
    factors = (indices[1], torch.randint(9, (n,))) if n_parts == 4 else (indices[1],)
    rows = Rows(terms=tuple(indices))
    if receives:
        rows = Rows(
            terms=tuple(indices), factors=factors, weight=torch.rand(n), receiver=torch.randint(5, (n,)), n_receivers=5
        )
    tables = [part(x) for x, part in zip(features, layer.parts, strict=True)]
    found = passed(layer, rows, own, scales if receives else None, *tables)

    joined = [x.double()[index] for x, index in zip(features, indices, strict=True)]
    if own is not None:
        joined.insert(2, own.double())  # an arm, another arm, the angle, the atom
    expected = as_written(p, torch.cat(joined, 1))
    if receives:
        assert rows.weight is not None
        assert rows.receiver is not None
        for index in factors:
            expected = expected * scales.double()[index]
        expected = torch.zeros(5, WIDTH, dtype=torch.float64).index_add(
            0, rows.receiver, expected * rows.weight[:, None].double()
        )
    elif own is not None:
        expected = expected + own.double()
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    leaves = [*features, *([] if own is None else [own]), *([scales] if receives else [])]
    weights = torch.randn_like(found)
    slopes = torch.autograd.grad((found * weights).sum(), leaves)
    true = torch.autograd.grad((expected * weights.double()).sum(), leaves)
    for slope, right in zip(slopes, true, strict=True):
        torch.testing.assert_close(slope, right, rtol=1e-3, atol=1e-3 * float(right.abs().max()))


def test_the_kernel_reads_no_strided_tensor() -> None:
    layer = Gated.of(parameters(3, deep=True), "x", 3, torch.float32, True)
    tables = [torch.randn(128, 4).T for _ in range(3)]
    rows = Rows(terms=(torch.zeros(2, dtype=torch.int64),) * 3)
    with pytest.raises(ValueError, match="contiguous"):
        passed(layer, rows, torch.zeros(2, WIDTH), None, *tables)


@pytest.fixture
def unbuilt() -> None:
    kernel.library.cache_clear()
    yield
    kernel.library.cache_clear()


@pytest.mark.usefixtures("unbuilt")
def test_a_build_is_kept_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kernel.library() is not None
    (built,) = (tmp_path / "assay").iterdir()
    kernel.library.cache_clear()
    monkeypatch.setattr(kernel.subprocess, "run", None)  # a second build would fail
    assert kernel.library() is not None
    assert list((tmp_path / "assay").iterdir()) == [built]


@pytest.mark.usefixtures("unbuilt")
def test_a_cache_that_cannot_be_written_costs_a_build_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "assay").write_text("a file, not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kernel.library() is not None


@pytest.mark.usefixtures("unbuilt")
@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_working_compiler_torch_does_it_and_a_warning_says_so(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", compiler)
    with caplog.at_level(logging.WARNING):
        assert kernel.library() is None
    (record,) = caplog.records
    assert "half of its pace" in record.message
    assert "CXX" in record.message or "false" in record.message
