"""Manifests for containers, in docs/examples and on pages, say what commands and settings say."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from carbontrack.cli import COMMANDS, relay, run, serve
from carbontrack.config.settings import Settings
from carbontrack.server.limits import Limits

DOCS = Path(__file__).parents[3] / "docs"
FOLDER = DOCS / "examples" / "kubernetes"
PAGES = [DOCS / "how-to" / name for name in ("docker.md", "kubernetes.md", "install.md")]
MANIFESTS = sorted(FOLDER.glob("*.yaml"))
# read beside the settings: docs/reference/settings.md, "Other variables"
OTHER_VARIABLES = {"CARBONTRACK_JOB_ID"}


def containers(path: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The containers of a manifest, each with the pod that it is in."""
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        if document["kind"] != "Service":
            pod = document["spec"]["template"]["spec"]
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                yield container, pod


def variables_of(container: dict[str, Any]) -> dict[str, Any]:
    return {item["name"]: item for item in container.get("env", [])}


def parsed(command: list[str]) -> Namespace:
    """A command of ours, read as the command line reads it."""
    assert command[0] == "carbontrack"
    assert command[1] in COMMANDS
    parser = ArgumentParser(exit_on_error=False)
    commands = parser.add_subparsers()
    for module in (relay, run, serve):
        module.add_parser(commands)
    return parser.parse_args(command[1:])


def container_of(name: str) -> tuple[dict[str, Any], dict[str, Any], Namespace]:
    """The container that runs carbontrack, its pod and its command."""
    (found,) = [
        (container, pod)
        for container, pod in containers(FOLDER / name)
        if container["command"][0] == "carbontrack"
    ]
    return (*found, parsed(found[0]["command"]))


@pytest.mark.parametrize("page", [*PAGES, *MANIFESTS], ids=lambda path: path.name)
def test_every_variable_is_a_setting(page: Path) -> None:
    """What is named CARBONTRACK_SOMETHING is read by somebody."""
    named = set(re.findall(r"\bCARBONTRACK_[A-Z_]+\b", page.read_text(encoding="utf-8")))
    known = {f"CARBONTRACK_{name.upper()}" for name in Settings.__annotations__}
    assert named <= known | OTHER_VARIABLES


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_yaml_on_pages_is_yaml(page: Path) -> None:
    """Each block parses, and its commands are commands."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```yaml[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        found = yaml.safe_load(block)
        for service in found.get("services", {"one": found}).values():
            parsed(service["command"])


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_what_is_mounted_is_there(path: Path) -> None:
    """Each mount has its volume, and each variable in a command or a value is set before it."""
    for container, pod in containers(path):
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        variables = variables_of(container)
        for text in container["command"]:
            assert set(re.findall(r"\$\((\w+)\)", text)) <= set(variables)
        for number, item in enumerate(container.get("env", [])):
            used = set(re.findall(r"\$\((\w+)\)", item.get("value", "")))
            assert used <= set(list(variables)[:number])


def test_the_page_names_each_manifest() -> None:
    """None is left out, and none is named that is missing."""
    text = (DOCS / "how-to" / "kubernetes.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(\w+\.yaml)` \|", text, re.MULTILINE)) == [
        path.name for path in MANIFESTS
    ]


def test_job_relay_and_server_fit_together() -> None:
    """Records go to the service's address, and journals to where the relay looks."""
    job, _, _ = container_of("job.yaml")
    _, relay_pod, relay_args = container_of("relay.yaml")
    _, server_pod, server_args = container_of("serve.yaml")
    (service,) = [
        document
        for document in yaml.safe_load_all((FOLDER / "serve.yaml").read_text(encoding="utf-8"))
        if document["kind"] == "Service"
    ]
    meta, (port,) = service["metadata"], service["spec"]["ports"]
    url = f"http://{meta['name']}.{meta['namespace']}:{port['port']}/v1/records"
    variables = variables_of(job)
    assert variables["CARBONTRACK_OUTPUT"]["value"] == relay_args.to == url
    assert server_args.port == port["port"]
    assert server_args.host == "0.0.0.0"
    state = Path(variables["CARBONTRACK_STATE_DIR"]["value"])
    assert [str(state.parent / "*")] == [str(place) for place in relay_args.state_dir]
    paths = [volume["hostPath"]["path"] for volume in relay_pod["volumes"] if "hostPath" in volume]
    assert str(state.parent) in paths
    assert server_pod["terminationGracePeriodSeconds"] > Limits().stop_s
    assert relay_pod["terminationGracePeriodSeconds"] > relay_args.finish_s
    assert not relay_args.listen  # its endpoint is on loopback, where no other pod comes


def test_docker_and_compose_give_time_to_end() -> None:
    """The compose file waits longer than the ten seconds that are the default."""
    text = (DOCS / "how-to" / "docker.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (service,) = yaml.safe_load(block)["services"].values()
    assert float(service["stop_grace_period"].removesuffix("s")) > 10
    assert service["init"] is True
