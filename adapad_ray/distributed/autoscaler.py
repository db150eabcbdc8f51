"""The nodes that a cluster's autoscaler may start."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapad_ray.distributed.capacity import NodeType
from adapad_ray.distributed.ray_internals import autoscaling_file, cluster_config
from adapad_ray.errors import BadRequestError
from adapad_ray.safe_yaml import read_yaml


def declared_nodes() -> tuple[list[NodeType], float]:
    """Return the node types of the autoscaler, and how many nodes it starts at most; none where they are not known.

    Some platforms store them with the cluster. The autoscaler of `ray up` has them in a file on the head node, where
    drivers of submitted jobs run. That of Kubernetes keeps them to itself.
    """
    stored = cluster_config()
    if stored is not None:
        return [
            NodeType(dict(group.resources), math.inf if group.max_count < 0 else group.max_count, declared=True)
            for group in stored.node_group_configs
        ], math.inf
    path = autoscaling_file()
    if path is None:
        return [], 0
    try:
        return nodes_in_file(Path(path))
    except (OSError, BadRequestError):  # it is the autoscaler's, not ours
        return [], 0


def nodes_in_file(path: Path) -> tuple[list[NodeType], float]:
    """Read the node types of an autoscaler's file (`ray up`).

    Raises:
        OSError, BadRequestError: the file cannot be read.
    """
    content: Any = read_yaml(path.read_text(), f"the autoscaler's file {path}")
    most = content.get("max_workers", math.inf)
    types = content.get("available_node_types", {})
    return [_node_type(entry, most) for entry in types.values() if entry.get("resources")], most


def has_autoscaler_of_kubernetes() -> bool:
    """Whether this process runs on the head of a KubeRay cluster with an autoscaler, which runs beside the head."""
    return "--no-monitor" in os.environ.get("KUBERAY_GEN_RAY_START_CMD", "")


def _node_type(entry: Mapping[str, Any], most: float) -> NodeType:
    count = entry.get("max_workers", most)
    return NodeType(dict(entry["resources"]), count, dict(entry.get("labels") or {}), declared=True)
