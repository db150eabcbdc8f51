"""The entry point of a submitted job: checks that this node can run the package, then starts `adapad sweep`.

`adapad submit` copies this file next to the package. To report a missing requirement it must run in any Python 3 with
nothing installed, so it does not import the package and uses no recent syntax.
"""

import json
import os
import sys
from importlib import metadata
from typing import Any

REQUIREMENTS = "adapad-job.json"
"""File next to this one: the oldest Python that works, the submitting Python, the required packages."""


def find_problem(requirements: "dict[str, Any]") -> str:
    """Why the package cannot run in this Python, in one line; empty if it can."""
    if list(sys.version_info[:2]) < requirements["python"]:
        return "the cluster runs Python {}.{}, but adapad-ray needs {}.{} or newer: use another image".format(
            *sys.version_info[:2], *requirements["python"]
        )
    from packaging.requirements import Requirement

    missing = []
    for text in requirements["packages"]:
        requirement = Requirement(text)
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.append(text)
        else:
            if not requirement.specifier.contains(version, prereleases=True):
                missing.append(text + " (not " + version + ")")
    if missing:
        return "the cluster's Python lacks " + ", ".join(missing) + ": install adapad-ray's requirements in its image"
    return ""


def main() -> None:
    """Starts `adapad sweep` with the arguments of this program: a file and overrides."""
    with open(REQUIREMENTS) as file:
        requirements = json.load(file)
    problem = find_problem(requirements)
    if problem:
        print("adapad: " + problem, file=sys.stderr)  # noqa: T201
        raise SystemExit(2)
    here = "{}.{}".format(*sys.version_info[:2])
    if here != requirements["submitted_from"]:
        note = "Submitted from Python {}, running on {}."
        print(note.format(requirements["submitted_from"], here))  # noqa: T201
    os.execv(sys.executable, [sys.executable, "-m", "adapad_ray.cli", "sweep", *sys.argv[1:]])


if __name__ == "__main__":
    main()
