"""Every method keeps the contract."""

import pytest

from adapad_ray.testing import COST_PER_RANK, MethodCase, MethodConformance


class TestLora(MethodConformance):
    @pytest.fixture(
        params=[
            MethodCase("lora", impossible={"rank": 33}),
            MethodCase("lora", 700, {"allocation": "random", "dropout": 0.3}, pooling="own"),
        ],
        ids=str,
    )
    def case(self, request):
        return request.param


class TestAdapadExact(MethodConformance):
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


class TestAdapadInterleaved(MethodConformance):
    @pytest.fixture(
        params=[MethodCase("adapad", 1200, {"mode": "interleaved", "initial_rank": 0}, impossible={"r_max": 33})],
        ids=str,
    )
    def case(self, request):
        return request.param


class TestHeadOnly(MethodConformance):
    @pytest.fixture(params=[MethodCase("head_only", budget=None)], ids=str)
    def case(self, request):
        return request.param
