"""The cut of finished updates, against dense SVDs, sorted lists in plain Python, and PEFT's own threshold."""

from __future__ import annotations

import math
import random

import pytest
import torch
from peft.tuners.lora.conversion import _find_cutoff_index

from adapad_ray.adapters.truncation import (
    KeepEnergy,
    KeepParameters,
    KeepRatio,
    Spectrum,
    allocate,
    spectrum,
    update_distance,
)
from adapad_ray.budget import BudgetTooSmallError
from adapad_ray.errors import BadRequestError

SHAPES = [(24, 17, 5), (6, 40, 6), (3, 9, 7), (50, 50, 1)]
"""d_in, d_out, rank; the third has a rank above its narrow side."""


def factors(d_in, d_out, rank, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, d_in, generator=generator), torch.randn(d_out, rank, generator=generator)


def spectra_of(seed, shapes=((8, 8, 4), (8, 24, 4), (24, 8, 4), (16, 16, 4))):
    """Modules of unequal cost whose updates have different sizes."""
    found = {}
    for i, shape in enumerate(shapes):
        a, b = factors(*shape, seed=100 * seed + i)
        found[f"m{i}"] = spectrum(a, b * (1 + i))
    return found


def made(values, cost=2):
    """A spectrum with these singular values on a module of this cost."""
    n, d_in = len(values), cost // 2
    eye = torch.eye(max(n, cost), dtype=torch.float64)
    return Spectrum(eye[: cost - d_in, :n], torch.tensor(values, dtype=torch.float64), eye[:n, :d_in], rank=n)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_qr_route_gives_the_singular_values_and_best_approximations_of_a_dense_svd(shape):
    a, b = factors(*shape)
    found, dense = spectrum(a, b), (b @ a).double()
    u, values, vt = torch.linalg.svd(dense, full_matrices=False)
    n = len(found.values)
    torch.testing.assert_close(found.values, values[:n], rtol=1e-5, atol=0)
    assert values[n:].sum() < 1e-4
    for rank in range(n + 1):
        cut_a, cut_b = found.factors(rank)
        best = u[:, :rank] * values[:rank] @ vt[:rank]
        torch.testing.assert_close(cut_b @ cut_a, best, rtol=1e-4, atol=1e-5)
        error = torch.linalg.matrix_norm(cut_b @ cut_a - dense)
        assert float(error) == pytest.approx(math.sqrt(float(values[rank:].square().sum())), rel=1e-5, abs=1e-4)
        assert update_distance((a, b), (cut_a, cut_b)) == pytest.approx(float(error), rel=1e-5, abs=1e-4)


def test_both_factors_carry_the_root_of_each_value():
    found = spectrum(*factors(24, 17, 5))
    a, b = found.factors(3)
    for gram in (a @ a.T, b.T @ b):
        torch.testing.assert_close(gram, torch.diag(found.values[:3]), rtol=1e-9, atol=1e-9)


def test_an_untrained_update_has_no_value_and_a_repeated_one_only_its_own():
    a, b = factors(10, 10, 4)
    assert len(spectrum(a, torch.zeros_like(b)).values) == 0
    repeated = spectrum(torch.cat([a, a]), torch.cat([b, b], dim=1))
    assert len(repeated.values) == 4 and repeated.rank == 8


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.05, 0.25, 0.6, 0.9, 1.0])
def test_the_global_cut_is_a_threshold_on_the_sorted_pool(seed, share):
    spectra = spectra_of(seed)
    pool = sorted((v for s in spectra.values() for v in s.values.tolist()), reverse=True)
    threshold = pool[max(1, round(share * 16)) - 1]
    expected = {name: sum(v >= threshold for v in s.values.tolist()) for name, s in spectra.items()}
    assert allocate(spectra, KeepRatio(share)) == {name: rank for name, rank in expected.items() if rank}

    total, kept, held = math.fsum(v * v for v in pool), [], 0.0
    while held < share * total * (1 - 1e-12):
        kept.append(pool[len(kept)])
        held = math.fsum(v * v for v in kept)
    ranks = allocate(spectra, KeepEnergy(share))
    assert sum(ranks.values()) == len(kept)
    assert ranks == {n: sum(v >= kept[-1] for v in spectra[n].values.tolist()) for n in ranks}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("per_parameter", [False, True])
def test_a_budget_is_spent_greedily_and_never_exceeded(seed, per_parameter):
    spectra = spectra_of(seed)
    costs = {name: s.cost for name, s in spectra.items()}
    assert len(set(costs.values())) > 1

    def wanted(item):
        name, value = item
        return value * value / costs[name] if per_parameter else value

    for budget in (16, 47, 100, 150, 288, 1000):
        left, expected = budget, dict.fromkeys(spectra, 0)
        for name, _ in sorted(
            ((n, v) for n, s in spectra.items() for v in s.values.tolist()), key=wanted, reverse=True
        ):
            if costs[name] <= left:
                left, expected[name] = left - costs[name], expected[name] + 1
        ranks = allocate(spectra, KeepParameters(budget, per_parameter))
        assert ranks == {name: rank for name, rank in expected.items() if rank}
        spent = sum(ranks[name] * costs[name] for name in ranks)
        assert spent <= budget
        waiting = [costs[n] for n, s in spectra.items() if ranks.get(n, 0) < len(s.values)]
        assert not waiting or budget - spent < min(waiting), "something would still have fitted"


def test_taking_values_per_parameter_keeps_more_energy_where_shapes_are_unequal():
    spectra = {"wide": made([3.0, 2.9], cost=100), "narrow": made([2.0, 1.9, 1.8, 1.7, 1.6], cost=20)}

    def kept(per_parameter):
        ranks = allocate(spectra, KeepParameters(100, per_parameter))
        return sum(spectra[name].energy(rank) for name, rank in ranks.items())

    assert kept(False) == 9.0
    assert kept(True) == pytest.approx(2.0**2 + 1.9**2 + 1.8**2 + 1.7**2 + 1.6**2)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8, 0.99, 1.0])
def test_the_local_cut_by_energy_is_pefts_threshold_in_every_module(share):
    spectra = spectra_of(1)
    ranks = allocate(spectra, KeepEnergy(share), "local")
    assert ranks == {n: min(_find_cutoff_index(s.values, share), len(s.values)) for n, s in spectra.items()}


def test_the_local_cut_takes_from_every_module_the_same_share_of_its_own_energy():
    """Whatever was kept last was needed for a smaller share than anything that was left out."""
    spectra = spectra_of(2)
    ranks = allocate(spectra, KeepRatio(0.5), "local")
    assert set(ranks) == set(spectra)
    before = max(s.energy(ranks[n] - 1) / s.energy() for n, s in spectra.items())
    after = min(s.energy(ranks[n]) / s.energy() for n, s in spectra.items() if ranks[n] < len(s.values))
    assert before < after


@pytest.mark.parametrize(("budget", "rank"), [(112, 1), (223, 1), (224, 2), (400, 3), (10_000, 4)])
def test_the_uniform_cut_keeps_one_rank_everywhere(budget, rank):
    spectra = spectra_of(3)
    assert sum(s.cost for s in spectra.values()) == 112
    assert allocate(spectra, KeepParameters(budget), "uniform") == dict.fromkeys(spectra, rank)


def test_a_uniform_ratio_is_that_share_of_the_rank():
    spectra = spectra_of(3)
    for share, rank in ((0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4)):
        assert set(allocate(spectra, KeepRatio(share), "uniform").values()) == {rank}


@pytest.mark.parametrize("cut", ["global", "local", "uniform"])
def test_keeping_all_keeps_all_and_more_is_never_less(cut):
    spectra = spectra_of(4)
    everything = {name: len(s.values) for name, s in spectra.items()}
    assert allocate(spectra, KeepRatio(1.0), cut) == allocate(spectra, KeepEnergy(1.0), cut) == everything
    for kind in (KeepRatio, KeepEnergy):
        previous = dict.fromkeys(spectra, 0)
        for share in (0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 0.95, 1.0):
            ranks = dict.fromkeys(spectra, 0) | allocate(spectra, kind(share), cut)
            assert all(ranks[name] >= previous[name] for name in spectra)
            previous = ranks


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_the_energy_kept_reaches_the_share_and_one_value_less_would_not(share):
    spectra = spectra_of(5)
    total = sum(s.energy() for s in spectra.values())
    ranks = allocate(spectra, KeepEnergy(share))
    kept = sum(spectra[name].energy(rank) for name, rank in ranks.items())
    smallest = min(float(spectra[name].values[rank - 1]) for name, rank in ranks.items())
    assert kept >= share * total > kept - smallest**2


def test_equal_values_stay_together_at_a_threshold_and_go_to_the_earlier_module_under_a_budget():
    spectra = {"a": made([2.0, 1.0]), "b": made([1.0]), "c": made([1.0, 0.5])}
    assert allocate(spectra, KeepRatio(0.4)) == {"a": 2, "b": 1, "c": 1}  # 2 of 5, and two ties
    assert allocate(spectra, KeepParameters(6)) == {"a": 2, "b": 1}


def test_the_order_of_the_modules_changes_nothing():
    spectra = spectra_of(6)
    names = list(spectra)
    random.Random(0).shuffle(names)
    for keep in (KeepRatio(0.4), KeepEnergy(0.8), KeepParameters(150)):
        for cut in ("global", "local", "uniform"):
            assert allocate({n: spectra[n] for n in names}, keep, cut) == allocate(spectra, keep, cut)


def test_an_untrained_module_gets_nothing_whatever_is_asked():
    a, b = factors(8, 8, 4)
    spectra = {"dead": spectrum(a, torch.zeros_like(b)), "live": spectrum(a, b)}
    for keep in (KeepRatio(1.0), KeepEnergy(1.0), KeepParameters(1000)):
        for cut in ("global", "local", "uniform"):
            assert allocate(spectra, keep, cut) == {"live": 4}
    with pytest.raises(BadRequestError, match="changes nothing"):
        allocate({"dead": spectra["dead"]}, KeepRatio(1.0))


def test_what_cannot_be_met_is_said():
    spectra = spectra_of(7)
    with pytest.raises(BudgetTooSmallError, match=r"^budget 15 is below the smallest component \(16\)$"):
        allocate(spectra, KeepParameters(15))
    for cut in ("local", "uniform"):
        with pytest.raises(BudgetTooSmallError, match="budget 111 is below one component on each of 4 modules"):
            allocate(spectra, KeepParameters(111), cut)
    for share in (0.0, -1.0, 1.01, math.nan):
        with pytest.raises(BadRequestError, match="must be above 0 and at most 1"):
            KeepRatio(share)
        with pytest.raises(BadRequestError, match="keep energy"):
            KeepEnergy(share)
