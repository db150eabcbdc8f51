"""What a submitted job runs: checks that this machine can run the package, then `adapad sweep`.

`adapad submit` copies this file beside the package, as the job's entry point. It may run in any Python 3, with nothing
installed, in order to say so: hence no import of the package, and no syntax of late.
"""

import json
import os
import sys
from importlib import metadata
from typing import Any


def complaint(needed: "dict[str, Any]") -> str:
    """One sentence on why the package cannot run here; empty where it can."""
    if list(sys.version_info[:2]) < needed["python"]:
        return "the cluster runs Python {}.{}, and the package needs {}.{} or newer: use another image".format(
            *sys.version_info[:2], *needed["python"]
        )
    from packaging.requirements import Requirement

    lacking = []
    for text in needed["requirements"]:
        requirement = Requirement(text)
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            lacking.append(text)
        else:
            if not requirement.specifier.contains(version, prereleases=True):
                lacking.append(text + " (not " + version + ")")
    if lacking:
        return "the cluster's Python lacks " + ", ".join(lacking) + ": install the package's requirements in its image"
    return ""


def main() -> None:
    """Runs the sweep that this program's arguments name: a file, and overrides."""
    with open("adapad-launch.json") as file:
        needed = json.load(file)
    problem = complaint(needed)
    if problem:
        print("adapad: " + problem, file=sys.stderr)  # noqa: T201
        raise SystemExit(2)
    here = "{}.{}".format(*sys.version_info[:2])
    if here != needed["submitted_from"]:
        note = "Submitted from Python {}, running on {}."
        print(note.format(needed["submitted_from"], here))  # noqa: T201
    os.execv(sys.executable, [sys.executable, "-m", "adapad_ray.cli", "sweep", *sys.argv[1:]])


if __name__ == "__main__":
    main()
