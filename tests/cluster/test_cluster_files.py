"""The files for clusters are valid for Ray and KubeRay, require a token and keep results on shared storage.

Set `KUBERAY_CRD` to the path of KubeRay's `ray.io_rayjobs.yaml` to validate against its schema.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "cluster"


@pytest.fixture(scope="module")
def launcher() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "ray-cluster.yaml").read_text())


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    (job,) = [d for d in yaml.safe_load_all((FOLDER / "rayjob.yaml").read_text()) if d["kind"] == "RayJob"]
    return job


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_ray_accepts_its_cluster_file(launcher):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(launcher))


def test_the_cluster_file_requires_a_token_limits_its_nodes_and_shares_a_folder(launcher):
    assert "--env RAY_AUTH_MODE=token" in launcher["docker"]["run_options"]
    assert "/home/ray/.ray/auth_token" in launcher["file_mounts"]
    gpu = launcher["available_node_types"]["gpu"]
    assert gpu["min_workers"] <= gpu["max_workers"] <= launcher["max_workers"]
    (head,) = [command for command in launcher["head_start_ray_commands"] if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in head
    assert any("/mnt/adapad:/mnt/adapad" in option for option in launcher["docker"]["run_options"])


def test_the_kubernetes_job_requires_a_token_limits_its_pods_and_shares_a_volume(job):
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"]
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for pod in pods(job):
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert any(port["name"] == "metrics" for port in container["ports"])
            for variable in container["env"]:
                secret = any(word in variable["name"] for word in ("PASSWORD", "TOKEN", "USERNAME"))
                assert ("valueFrom" in variable) == secret
    storages = [word.split("=")[1] for word in job["spec"]["entrypoint"].split() if word.startswith("storage=")]
    assert storages == ["/mnt/adapad/runs"] and "sqlite" not in job["spec"]["entrypoint"]


def test_the_kubernetes_job_has_only_fields_of_kuberays_schema(job):
    path = os.environ.get("KUBERAY_CRD")
    if path is None:
        pytest.skip("KUBERAY_CRD is not set to KubeRay's schema of a RayJob")
    (version,) = [v for v in yaml.safe_load(Path(path).read_text())["spec"]["versions"] if v["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    jsonschema.validate(job, _strict(schema))


def _strict(schema: Any) -> Any:
    """The schema without unknown fields, which Kubernetes would drop silently."""
    if isinstance(schema, dict):
        closed = {key: _strict(value) for key, value in schema.items()}
        named = "properties" in schema and isinstance(schema["properties"], dict)
        if named and schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
        if schema.get("x-kubernetes-int-or-string"):
            closed = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
        return closed
    return [_strict(item) for item in schema] if isinstance(schema, list) else schema
