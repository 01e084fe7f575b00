"""What is shipped for deploying agrees with the code that it deploys."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from metarouter.cli import run
from metarouter.gateway.metrics import Metrics
from metarouter.gateway.plain import plain_routes
from metarouter.gateway.settings import GatewaySettings, read_settings
from metarouter.store.writer import DecisionWriter

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
CLOSE_SECONDS = signature(DecisionWriter.close).parameters["seconds"].default
PRE_STOP_SECONDS = 5

API_OF_KIND = {
    "ConfigMap": "v1",
    "Secret": "v1",
    "Service": "v1",
    "PersistentVolumeClaim": "v1",
    "Deployment": "apps/v1",
    "Job": "batch/v1",
    "PodDisruptionBudget": "policy/v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "NetworkPolicy": "networking.k8s.io/v1",
    "Kustomization": "kustomize.config.k8s.io/v1beta1",
}


def _objects(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def _kind(kind: str) -> dict[str, Any]:
    (found,) = (one for path in KUBERNETES for one in _objects(path) if one["kind"] == kind)
    return dict(found)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> GatewaySettings:
    for name in ("METAROUTER_PORT", "METAROUTER_HOST"):
        monkeypatch.delenv(name, raising=False)
    return read_settings(DEPLOY / "gateway.yaml")


@pytest.fixture
def pod() -> dict[str, Any]:
    spec: dict[str, Any] = _kind("Deployment")["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["containers"]
    return dict(found)


@pytest.fixture
def stages() -> list[str]:
    """The Dockerfile's stages, comments out and lines joined."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return re.split(r"(?m)^(?=FROM )", "\n".join(lines))[1:]


def test_the_settings_that_are_shipped_are_read(settings: GatewaySettings) -> None:
    assert settings.auth == "keys"
    assert list(settings.policies) == ["default"]


def test_kubernetes_has_the_same_settings() -> None:
    inside = yaml.safe_load(_kind("ConfigMap")["data"]["gateway.yaml"])
    assert inside == yaml.safe_load((DEPLOY / "gateway.yaml").read_text())


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: str(path.name))
def test_manifests_are_of_kinds_that_exist(path: Path) -> None:
    for one in _objects(path):
        assert one["apiVersion"] == API_OF_KIND[one["kind"]]
        assert one["kind"] == "Kustomization" or re.fullmatch(r"[a-z-]+", one["metadata"]["name"])


def test_kustomize_builds_what_it_lists() -> None:
    listed = _kind("Kustomization")["resources"]
    assert all((DEPLOY / "kubernetes" / name).is_file() for name in listed)
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    command = [kubectl, "kustomize", str(DEPLOY / "kubernetes")]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kinds = {one["kind"] for one in yaml.safe_load_all(built)}
    assert kinds == {
        one["kind"] for name in listed for one in _objects(DEPLOY / "kubernetes" / name)
    }


def test_manifests_are_of_their_schemas() -> None:
    program = shutil.which("kubernetes-validate")
    if program is None:
        pytest.skip("kubernetes-validate is not installed")
    listed = [str(path) for path in KUBERNETES if path.name != "kustomization.yaml"]
    command = [program, "--strict", *listed]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_probes_ask_paths_that_are_open(
    container: dict[str, Any], settings: GatewaySettings
) -> None:
    paths = {container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness")}
    assert paths == {"/health"}
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    known = {route.path for route in plain_routes(None)}  # type: ignore[arg-type]
    assert {"/health", "/ready"} <= known
    (port,) = container["ports"]
    assert port["containerPort"] == settings.port
    assert _kind("Service")["spec"]["ports"][0]["targetPort"] == port["name"]
    allowed = _kind("NetworkPolicy")["spec"]["ingress"][0]["ports"][0]["port"]
    assert allowed == settings.port


def test_variables_that_the_settings_name_come_from_the_secret(
    container: dict[str, Any], settings: GatewaySettings
) -> None:
    needed = {up.api_key_env for up in settings.upstreams.values()} | {"PGPASSWORD"}
    assert {one["name"] for one in container["env"]} == needed
    given = {one["valueFrom"]["secretKeyRef"]["key"] for one in container["env"]}
    assert given == needed == set(_kind("Secret")["stringData"])


def test_a_pod_gets_the_time_that_draining_takes(
    pod: dict[str, Any], container: dict[str, Any], settings: GatewaySettings
) -> None:
    slept = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert slept == PRE_STOP_SECONDS
    needed = slept + settings.limits.drain_seconds + CLOSE_SECONDS
    assert pod["terminationGracePeriodSeconds"] >= needed


def test_selectors_find_the_pods() -> None:
    deployment = _kind("Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert _kind("Service")["spec"]["selector"] == labels
    assert _kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert _kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    scaled = _kind("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == (
        "Deployment",
        _kind("Deployment")["metadata"]["name"],
    )


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_containers_run_as_nobody_in_particular(kind: str) -> None:
    spec = _kind(kind)["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_every_mount_is_a_volume_and_every_written_path_a_mount(
    pod: dict[str, Any], container: dict[str, Any], settings: GatewaySettings
) -> None:
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == {one["name"] for one in pod["volumes"]}
    spill = mounts[str(settings.store.spill_folder)]
    assert not spill.get("readOnly")
    assert mounts[str(settings.policies["default"].router)]["readOnly"]


def test_the_image_asks_the_port_that_the_settings_open(
    stages: list[str], settings: GatewaySettings
) -> None:
    assert f"EXPOSE {settings.port}\n" in stages[-1]
    assert f"http://127.0.0.1:{settings.port}/health" in stages[-1]


def test_the_image_installs_hashed_requirements_and_runs_as_a_user(stages: list[str]) -> None:
    build, install, final = stages
    for stage in (build, install):
        for command in re.findall(r"pip install [^\n]*", stage):
            assert "--require-hashes" in command or "--no-deps" in command
    assert re.search(r"^USER \d+", final, re.M)
    assert "pip" not in final
    assert "HEALTHCHECK" in final
    assert "/health" in final


def test_the_image_copies_files_that_exist_and_are_let_in(stages: list[str]) -> None:
    let_in = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [
        source
        for stage in stages
        for line in re.findall(r"^COPY (?!--from)(.*)$", stage, re.M)
        for source in line.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source}" in let_in


def test_the_lock_of_the_image_covers_what_serving_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["serve"], *extras["postgres"]]
    names = {re.split(r"[<>=~!;\[ ]", one)[0].lower() for one in needed}
    locked = set(
        re.findall(r"(?m)^([a-z0-9._-]+)==", (ROOT / "requirements/serve.txt").read_text())
    )
    assert names <= locked


def test_the_lock_of_the_build_is_that_of_the_tests() -> None:
    """With the build backend that pyproject.toml names."""
    dev = (ROOT / "requirements/dev.txt").read_text()
    pins = re.findall(r"(?m)^\S+==\S+", (DEPLOY / "build.txt").read_text())
    assert all(f"\n{pin} " in dev for pin in pins)
    assert any(pin.startswith("hatchling==") for pin in pins)
    assert (DEPLOY / "build.txt").read_text().count("--hash=sha256:") >= len(pins)


def _commands() -> Iterator[tuple[str, list[str]]]:
    """Command lines of metarouter in what is shipped."""
    text = (DEPLOY / "Dockerfile").read_text()
    yield "Dockerfile", json.loads(re.search(r"(?m)^CMD (\[.*\])$", text).group(1))  # type: ignore[union-attr]
    for kind in ("Deployment", "Job"):
        yield kind, _kind(kind)["spec"]["template"]["spec"]["containers"][0]["args"]
    unit = (DEPLOY / "systemd/metarouter.service").read_text()
    yield "unit", re.search(r"ExecStart=\S+ (.*)", unit).group(1).split()  # type: ignore[union-attr]
    compose = (DEPLOY / "compose.yaml").read_text()
    yield "compose", re.search(r"run --rm gateway (.*)", compose).group(1).split()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("where", "arguments"), list(_commands()), ids=lambda value: str(value)[:20]
)
def test_commands_have_options_that_exist(
    where: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in arguments if not word.startswith("-")]
    command = words[:2] if words[0] == "keys" else words[:1]
    assert run([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in arguments if option.startswith("--"))


def test_compose_gives_the_gateway_what_its_settings_need(settings: GatewaySettings) -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    gateway, postgres = services["gateway"], services["postgres"]
    needed = {up.api_key_env for up in settings.upstreams.values()} | {"PGPASSWORD"}
    assert set(gateway["environment"]) == needed
    assert gateway["ports"] == [f"127.0.0.1:8080:{settings.port}"]
    mounted = {one.split(":")[1] for one in gateway["volumes"]}
    assert {str(settings.store.spill_folder), str(settings.policies["default"].router)} <= mounted
    user, host, database = re.findall(r"//(\w+)@(\w+)/(\w+)", settings.store.url)[0]
    assert host == "postgres" in services
    assert postgres["environment"]["POSTGRES_USER"] == user
    assert postgres["environment"]["POSTGRES_DB"] == database
    grace = int(gateway["stop_grace_period"].removesuffix("s"))
    assert grace >= settings.limits.drain_seconds + CLOSE_SECONDS
    for service in services.values():
        for source in (one.split(":")[0] for one in service["volumes"] if one.startswith(".")):
            assert source == "../router" or (DEPLOY / source).exists()


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    text = (DEPLOY / "systemd/metarouter.service").read_text()
    unit = tmp_path / "metarouter.service"
    unit.write_text(text.replace("/opt/metarouter/bin/metarouter", "/bin/true"))
    done = subprocess.run(
        [analyze, "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert "metarouter.service" not in done.stdout + done.stderr
    command = [analyze, "security", "--offline=true", str(unit)]
    exposed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert float(re.search(r"exposure level for \S+: (\d+\.\d)", exposed).group(1)) < 2  # type: ignore[union-attr]


def test_the_unit_gives_the_time_that_draining_takes(settings: GatewaySettings) -> None:
    unit = (DEPLOY / "systemd/metarouter.service").read_text()
    seconds = int(re.search(r"TimeoutStopSec=(\d+)", unit).group(1))  # type: ignore[union-attr]
    assert seconds >= settings.limits.drain_seconds + CLOSE_SECONDS
    assert str(settings.store.spill_folder).startswith("/var/lib/metarouter/")
    assert "StateDirectory=metarouter" in unit


def _exposed(registry: CollectorRegistry) -> set[str]:
    """Names of samples, as Prometheus has them."""
    found = set()
    for metric in registry.collect():
        ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
        found |= {metric.name + end for end in ends.get(metric.type, ("",))}
    return found


@pytest.mark.parametrize("file", ["grafana/metarouter.json", "prometheus/rules.yml"])
def test_every_metric_of_the_dashboard_and_the_alerts_exists(file: str) -> None:
    metrics = Metrics()
    metrics.watch_upstreams(dict)
    # any object with the writer's counts is enough to name its gauges
    metrics.watch(type("Writer", (), {"__getattr__": lambda self, name: 0})())
    named = set(re.findall(r"(?:metarouter|process)_[a-z_]+", (DEPLOY / file).read_text()))
    assert named
    assert named <= _exposed(metrics.registry)


def test_labels_of_the_dashboard_exist() -> None:
    metrics = Metrics()
    metrics.note_request("route", 200, "ok", seconds=0.1)
    metrics.note_decision("default", "m", "gain")
    known = {
        label
        for family in metrics.registry.collect()
        for one in family.samples
        for label in one.labels
    }
    known |= {
        "job",
        "instance",
        "upstream",
        "le",
    }  # of Prometheus, and of what was not counted here
    panels = json.loads((DEPLOY / "grafana/metarouter.json").read_text())["panels"]
    for panel in panels:
        for target in panel["targets"]:
            used = re.findall(r"by \(([^)]*)\)", target["expr"])
            labels = {name.strip() for group in used for name in group.split(",")}
            labels |= set(re.findall(r"[{,](\w+)[=!]", target["expr"]))
            assert labels <= known, target["expr"]


def test_the_dashboard_is_whole() -> None:
    page = json.loads((DEPLOY / "grafana/metarouter.json").read_text())
    numbers = [panel["id"] for panel in page["panels"]]
    assert len(set(numbers)) == len(numbers)
    variables = {one["name"] for one in page["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(page["panels"])))
    assert used <= variables | {"__rate_interval"}


def test_envoy_passes_streams_on_and_leaves_retries_to_the_gateway(
    settings: GatewaySettings,
) -> None:
    text = (DEPLOY / "envoy/envoy.yaml").read_text()
    resources = yaml.safe_load(text)["static_resources"]
    (listener,), (cluster,) = resources["listeners"], resources["clusters"]
    config = listener["filter_chains"][0]["filters"][0]["typed_config"]
    (route,) = config["route_config"]["virtual_hosts"][0]["routes"]
    assert route["route"]["cluster"] == cluster["name"]
    assert route["route"]["timeout"] == "0s"
    assert "retry_policy" not in route["route"]
    longest = max(up.total_timeout for up in settings.upstreams.values())
    assert float(config["stream_idle_timeout"].removesuffix("s")) > longest
    (check,) = cluster["health_checks"]
    assert check["http_health_check"]["path"] == "/ready"
    address = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
    assert address["socket_address"]["port_value"] == settings.port


def test_litellm_names_the_plugin_that_is_shipped() -> None:
    config = yaml.safe_load((DEPLOY / "litellm/config.yaml").read_text())
    (reference,) = config["router_settings"]["plugins"]
    module, _, name = reference.partition(".")
    source = (DEPLOY / "litellm" / f"{module}.py").read_text()
    assert f"import {name}" in source
    assert len({one["model_name"] for one in config["model_list"]}) == 1
