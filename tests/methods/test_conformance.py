"""Every method keeps the contract."""

from dataclasses import replace

import pytest

from adapad_ray.testing import COST_PER_RANK, MethodCase, MethodConformance


class TestLora(MethodConformance):
    @pytest.fixture(
        params=[
            MethodCase("lora", impossible={"rank": 33}),
            MethodCase("lora", 700, {"allocation": "random", "dropout": 0.3}, pooling="own"),
            MethodCase("lora", 2500, {"rank_pattern": {"layer.0.*query": 8, "value": 1}, "rslora": True}),
        ],
        ids=str,
    )
    def case(self, request):
        return request.param


class TestAdapad(MethodConformance):
    @pytest.fixture(
        params=[
            MethodCase("adapad", 2 * COST_PER_RANK, {"local_steps": 3}, impossible={"initial_rank": 33}),
            MethodCase("adapad", 500, {"local_steps": 2, "initial_rank": 0, "dropout": 0.1}, pooling="own"),
            MethodCase("adapad", 3 * COST_PER_RANK, {"local_steps": 1, "initial_rank": 2, "advance_learning": False}),
        ],
        ids=str,
    )
    def case(self, request):
        return request.param


class TestAdapadFromNoComponent(MethodConformance):
    @pytest.fixture(
        params=[MethodCase("adapad", 1200, {"initial_rank": 0}, impossible={"r_max": 33})],
        ids=str,
    )
    def case(self, request):
        return request.param


class TestAdapadInPacks(MethodConformance):
    @pytest.fixture(
        params=[
            MethodCase(
                "adapad",
                3 * COST_PER_RANK,
                {"local_steps": 2, "growth_score": "reserve", "growth_interval": 4, "dropout": 0.1},
                slots_per_pass=3,
            ),
        ],
        ids=str,
    )
    def case(self, request):
        return request.param


class TestHeadOnly(MethodConformance):
    @pytest.fixture(params=[MethodCase("head_only", budget=None)], ids=str)
    def case(self, request):
        return request.param


class TestAdalora(MethodConformance):
    @pytest.fixture(
        params=[
            MethodCase("adalora"),
            MethodCase(
                "adalora", 500, {"dropout": 0.1, "allocation_end": 1.0, "allocation_interval": 3}, pooling="own"
            ),
        ],
        ids=str,
    )
    def case(self, request):
        return request.param


class TestDora(MethodConformance):
    @pytest.fixture(
        params=[
            MethodCase("dora", 2500, impossible={"rank": 33}),
            MethodCase("dora", 5 * COST_PER_RANK, {"dropout": 0.2, "rank": 3}, pooling="own"),
        ],
        ids=str,
    )
    def case(self, request):
        return request.param


class TestFull(MethodConformance):
    @pytest.fixture(
        params=[MethodCase("full", budget=None), MethodCase("full", None, {"learning_rate_scale": 1.0}, pooling="own")],
        ids=str,
    )
    def case(self, request):
        return request.param


class TestPara(MethodConformance):
    @pytest.fixture(
        params=[
            MethodCase("para", 2 * COST_PER_RANK + 5, {"parent_rank": 6}, impossible={"parent_rank": 33}),
            MethodCase("para", 300, {"parent_rank": 4, "per_parameter": True}, pooling="own"),
            MethodCase("para", 2 * COST_PER_RANK + 200, {"parent_rank": 6, "cut": "local", "dropout": 0.1}),
            MethodCase("para", 3 * COST_PER_RANK - 1, {"parent_rank": 6, "cut": "uniform"}),
        ],
        ids=str,
    )
    def case(self, request):
        return request.param


class TestAdapadCp(MethodConformance):
    @pytest.fixture(
        params=[
            MethodCase("adapad", 1000, {"family": "cp", "local_steps": 3}, impossible={"r_max": 33}),
            MethodCase("adapad", 200, {"family": "cp", "initial_rank": 0}, pooling="own"),
        ],
        ids=str,
    )
    def case(self, request):
        return request.param


class TestCp(MethodConformance):
    @pytest.fixture(
        params=[
            MethodCase("cp", 1000, impossible={"components": 33}),
            MethodCase("cp", 2000, {"splits": {"query": [2, 16, 8, 4]}, "dropout": 0.2}, pooling="own"),
        ],
        ids=str,
    )
    def case(self, request):
        return request.param


class TestArd(MethodConformance):
    @pytest.fixture(
        params=[
            MethodCase(
                "ard", 3 * COST_PER_RANK, {"unit": "module", "rank_interval": 2}, impossible={"initial_rank": 33}
            ),
            MethodCase(
                "ard", 4 * COST_PER_RANK, {"initial_rank": 1, "rank_interval": 3, "alpha_rate": 40.0}, pooling="own"
            ),
        ],
        ids=str,
    )
    def case(self, request):
        return request.param


class TestAdapadJointTail(MethodConformance):
    @pytest.fixture(
        params=[
            MethodCase("adapad", 2 * COST_PER_RANK, {"local_steps": 2, "joint_fraction": 0.3, "staleness": 1}),
            MethodCase("adapad", 1200, {"initial_rank": 0, "joint_fraction": 0.4}, pooling="own"),
            MethodCase("adapad", 1000, {"family": "cp", "local_steps": 3, "joint_fraction": 0.2, "dropout": 0.1}),
        ],
        ids=str,
    )
    def case(self, request):
        return request.param


class TestFim(MethodConformance):
    @pytest.fixture(
        params=[
            MethodCase("fim", 2 * COST_PER_RANK + 5, {"calibration_steps": 4}),
            MethodCase("fim", 300, {"dropout": 0.2}, pooling="own"),
        ],
        ids=str,
    )
    def case(self, request):
        return request.param


class TestGora(MethodConformance):
    @pytest.fixture(
        params=[
            MethodCase("gora", 3 * COST_PER_RANK, {"calibration_steps": 4}),
            MethodCase("gora", 500, {"dropout": 0.2, "step_size": 1.0}, pooling="own"),
        ],
        ids=str,
    )
    def case(self, request):
        return request.param


class TestIncrelora(MethodConformance):
    @pytest.fixture(
        params=[
            MethodCase("increlora", 2 * COST_PER_RANK, impossible={"initial_rank": 33}),
            MethodCase("increlora", 3 * COST_PER_RANK, {"growth_interval": 3, "growth_end": 0.8}, pooling="own"),
            MethodCase("increlora", COST_PER_RANK + 63, {"dropout": 0.2, "orthogonality": 0.0}),
        ],
        ids=str,
    )
    def case(self, request):
        return request.param

    def test_beside_another_cell_it_computes_what_it_computes_alone(self, case):
        """With a later first growth: after two steps rounding decides between modules that matter equally."""
        later = replace(case, config={"growth_interval": 4, **case.config})
        super().test_beside_another_cell_it_computes_what_it_computes_alone(later)


class TestDylora(MethodConformance):
    @pytest.fixture(
        params=[
            MethodCase("dylora", 4 * COST_PER_RANK),
            MethodCase("dylora", 3 * COST_PER_RANK + 10, {"update": "single", "dropout": 0.2}, pooling="own"),
            MethodCase("dylora", 3 * COST_PER_RANK, {"distribution": "geometric"}),
        ],
        ids=str,
    )
    def case(self, request):
        return request.param


class TestSequential(MethodConformance):
    @pytest.fixture(
        params=[
            MethodCase("sequential"),
            MethodCase(
                "sequential", 3 * COST_PER_RANK, {"local_steps": 2, "more_first": 0.5, "dropout": 0.1}, pooling="own"
            ),
        ],
        ids=str,
    )
    def case(self, request):
        return request.param


class TestMelora(MethodConformance):
    @pytest.fixture(
        params=[
            MethodCase("melora", impossible={"rank": 17}),
            MethodCase("melora", 3 * COST_PER_RANK + 5, {"minis": 8, "dropout": 0.2}, pooling="own"),
        ],
        ids=str,
    )
    def case(self, request):
        return request.param


class TestOtherLinearLayers(MethodConformance):
    """GPT-2's transposed layers and Falcon's subclass: one method for each way to adapt a layer."""

    @pytest.fixture(
        params=[
            MethodCase(method, 2 * 704, config, architecture=architecture)
            for architecture in ("gpt2", "falcon")
            for method, config in (
                ("lora", {}),
                ("adapad", {"initial_rank": 0, "local_steps": 2}),
                ("ard", {}),
                ("adalora", {}),
                ("dora", {}),
            )
        ],
        ids=str,
    )
    def case(self, request):
        return request.param
