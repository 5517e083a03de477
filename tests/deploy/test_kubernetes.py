"""The Kubernetes manifests: valid, restricted, and their parts fit together."""

from typing import Any

import pytest
import yaml

from schemas.settings import Settings
from tests.deploy.manifests import (
    KUBERNETES,
    assert_runs,
    base,
    built,
    drains_within_s,
    of_kind,
    of_option,
)

VERSIONS = ("1.28", "1.34")
"""The oldest that knows the pod's index, and a recent one."""
FOLDERS = ("base", "overlays/cluster")


def validate(resource: dict[str, Any], version: str) -> None:
    """Raise where `resource` breaks Kubernetes' own schema of `version`, unknown fields included."""
    library = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate, which carries Kubernetes' schemas, is missing"
    )
    library.validate(resource, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_resource_of_the_base_keeps_to_its_schema(version: str) -> None:
    for resource in base():
        validate(resource, version)


@pytest.mark.parametrize("folder", FOLDERS)
def test_everything_that_kustomize_builds_keeps_to_its_schema(folder: str) -> None:
    resources = built(folder)
    assert len(resources) == len(base()) + 1  # the map of settings is made, not listed
    for resource in resources:
        validate(resource, VERSIONS[-1])
        if resource["kind"] != "Namespace":
            assert resource["metadata"]["namespace"] == "tidegate"


def test_a_mistake_in_a_resource_is_found() -> None:
    library = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is missing")
    wrong = stateful_set()
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(library.ValidationError):
        validate(wrong, VERSIONS[-1])


def stateful_set(resources: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return of_kind(base() if resources is None else resources, "StatefulSet")[0]


def pod(resources: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return dict(stateful_set(resources)["spec"]["template"]["spec"])


def test_a_pod_is_restricted() -> None:
    labels = of_kind(base(), "Namespace")[0]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    context = pod()["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == 10_001
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod()["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod())
    for container in pod()["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_a_container_has_limits_and_asks_for_no_more() -> None:
    for container in pod()["containers"]:
        assert set(container["resources"]["limits"]) == {"cpu", "memory", "ephemeral-storage"}
        assert set(container["resources"]["requests"]) == {"cpu", "memory", "ephemeral-storage"}


def test_the_probes_ask_the_health_port() -> None:
    container = pod()["containers"][0]
    port = {port["name"]: port["containerPort"] for port in container["ports"]}["health"]
    said = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert said["TIDEGATE_HEALTH_PORT"] == str(port)
    asked = {probe: container[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert all(probe["port"] == "health" for probe in asked.values())
    assert [probe["path"] for probe in asked.values()] == ["/healthz", "/healthz", "/readyz"]


def test_store_and_recovery_folder_lie_on_one_claim() -> None:
    container = pod()["containers"][0]
    claims = {claim["metadata"]["name"] for claim in stateful_set()["spec"]["volumeClaimTemplates"]}
    kept = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] in claims]
    assert kept == ["/var/lib/tidegate"]
    assert_runs(container["args"])
    assert of_option(container["args"], "--sink")[0].startswith(kept[0] + "/")
    assert of_option(container["args"], "--recovery")[0].startswith(kept[0] + "/")
    assert stateful_set()["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"


def test_what_is_mounted_is_there() -> None:
    volumes = {volume["name"] for volume in pod()["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in stateful_set()["spec"]["volumeClaimTemplates"]}
    assert {mount["name"] for mount in pod()["containers"][0]["volumeMounts"]} == volumes


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_pod_mounts_the_settings_that_kustomize_made(folder: str) -> None:
    resources = built(folder)
    made = of_kind(resources, "ConfigMap")[0]
    mounted = [volume["configMap"]["name"] for volume in pod(resources)["volumes"] if "configMap" in volume]
    assert mounted == [made["metadata"]["name"]]
    assert made["data"]["tidegate.toml"] == (KUBERNETES / folder / "tidegate.toml").read_text("utf-8")


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_settings_are_known_and_leave_time_to_drain(folder: str) -> None:
    settings = Settings.load(KUBERNETES / folder / "tidegate.toml")
    assert pod()["terminationGracePeriodSeconds"] > drains_within_s(settings)


def test_everything_selects_the_same_pods() -> None:
    labels = stateful_set()["spec"]["template"]["metadata"]["labels"]
    assert stateful_set()["spec"]["selector"] == {"matchLabels": labels}
    assert of_kind(base(), "Service")[0]["spec"]["selector"] == labels
    assert of_kind(base(), "PodDisruptionBudget")[0]["spec"]["selector"] == {"matchLabels": labels}


def policies() -> dict[str, dict[str, Any]]:
    return {policy["metadata"]["name"]: policy["spec"] for policy in of_kind(base(), "NetworkPolicy")}


def test_nothing_goes_in_or_out_by_default() -> None:
    assert policies()["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_what_the_run_needs_is_let_through_and_no_whole_world() -> None:
    ours = policies()["tidegate"]
    rules = [(rule["to"], {port["port"] for port in rule["ports"]}) for rule in ours["egress"]]
    assert all(peers and "ipBlock" not in peers[0] for peers, _ in rules)
    outward = set().union(*(ports for _, ports in rules))
    address = of_option(pod()["containers"][0]["args"], "--source")[0]
    endpoint = Settings.load(KUBERNETES / "base" / "tidegate.toml").trace_otlp_endpoint
    for wanted in (address.partition("?")[0], endpoint):
        assert int(wanted.rpartition(":")[2]) in outward
    assert 53 in outward
    inward = [port["port"] for rule in ours["ingress"] for port in rule["ports"]]
    assert inward == [port["containerPort"] for port in reversed(pod()["containers"][0]["ports"])]


def test_a_cluster_is_told_the_address_of_each_of_its_pods() -> None:
    resources = built("overlays/cluster")
    spec, service = stateful_set(resources)["spec"], of_kind(resources, "Service")[0]
    arguments = pod(resources)["containers"][0]["args"]
    assert_runs(arguments)
    name, place = stateful_set(resources)["metadata"]["name"], service["metadata"]
    port = {port["name"]: port["port"] for port in service["spec"]["ports"]}["cluster"]
    assert spec["serviceName"] == place["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert spec["podManagementPolicy"] == "Parallel"
    assert of_option(arguments, "-a") == [
        f"{name}-{ordinal}.{place['name']}.{place['namespace']}.svc.cluster.local:{port}"
        for ordinal in range(spec["replicas"])
    ]


def test_a_process_of_a_cluster_learns_which_one_it_is_from_its_pod() -> None:
    container = pod(built("overlays/cluster"))["containers"][0]
    assert of_option(container["args"], "-i") == ["$(POD_INDEX)"]
    told = {entry["name"]: entry.get("valueFrom") for entry in container["env"]}["POD_INDEX"]
    assert told == {"fieldRef": {"fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}}


def test_a_cluster_has_more_shards_than_processes() -> None:
    overlay = yaml.safe_load((KUBERNETES / "overlays/cluster/cluster.yaml").read_text("utf-8"))
    assert Settings.load(KUBERNETES / "overlays/cluster/tidegate.toml").shards >= overlay[0]["value"]
