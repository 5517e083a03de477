"""compose.yaml: it is one, and no container can do more than it has to."""

from typing import Any

import pytest
import yaml

from schemas.settings import Settings
from tests.deploy.manifests import DEPLOY, assert_runs, compose, drains_within_s, of_option

SERVICES = compose()["services"]
EACH = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())
WITHOUT_HEALTHCHECK = {"topics", "collector"}
"""One ends when it has done its work; the other's image holds nothing that could ask it."""


def validate(text: str) -> None:
    """Raise ValueError where `text` breaks the Compose Specification."""
    library = pytest.importorskip("compose_spec", reason="compose-spec, which knows the specification, is missing")
    library.PyOptions(apply_merge=True).from_yaml(text).validate()


def test_the_compose_file_keeps_to_the_specification() -> None:
    validate((DEPLOY / "compose.yaml").read_text("utf-8"))


@pytest.mark.parametrize(
    ("right", "wrong", "named"),
    [
        ("    pids_limit: 128\n", "    pid_limit: 128\n", "pid_limit"),
        ("    mem_limit: 1g\n", "    mem_limit: plenty\n", "plenty"),
        ("networks: [traces]", "networks: [trace]", "trace"),
        ("condition: service_healthy", "condition: healthy", "`healthy`"),
    ],
)
def test_a_mistake_in_the_compose_file_is_found(right: str, wrong: str, named: str) -> None:
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    assert right in text
    with pytest.raises(ValueError, match=named):
        validate(text.replace(right, wrong, 1))


def test_the_site_has_its_brokers_its_traces_and_tidegate() -> None:
    assert set(SERVICES) == {"kafka", "topics", "mosquitto", "jaeger", "collector", "tidegate"}


@EACH
def test_a_container_is_nobody_and_writes_only_where_it_must(service: dict[str, Any]) -> None:
    uid, _, gid = service["user"].partition(":")
    assert int(uid) > 0
    assert int(gid) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "devices", "pid", "ipc", "network_mode", "env_file"} & set(service)
    assert all("size=" in mount for mount in service["tmpfs"])
    assert "docker.sock" not in str(service)


@EACH
def test_a_container_has_limits(service: dict[str, Any]) -> None:
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert service["logging"]["options"]["max-size"]


@EACH
def test_an_image_is_named_with_its_version(service: dict[str, Any]) -> None:
    _, _, tag = service["image"].rpartition(":")
    assert tag[0].isdigit()


@EACH
def test_a_port_is_published_on_loopback_only(service: dict[str, Any]) -> None:
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@EACH
def test_what_is_mounted_is_there(service: dict[str, Any]) -> None:
    for mount in service.get("volumes", []):
        source, target, *mode = mount.split(":")
        if source.startswith("."):
            assert (DEPLOY / source).is_file()
            assert mode == ["ro"]
        else:
            assert source in compose()["volumes"]
        assert target.startswith("/")


def test_every_container_that_can_be_asked_is_asked() -> None:
    asked = {name for name, service in SERVICES.items() if service["healthcheck"].get("test")}
    assert asked == set(SERVICES) - WITHOUT_HEALTHCHECK
    assert "/healthz" in SERVICES["tidegate"]["healthcheck"]["test"][-1]


def test_broker_and_trace_networks_do_not_reach_out() -> None:
    networks = compose()["networks"]
    assert networks["brokers"] == networks["traces"] == {"internal": True}


def test_no_secret_lies_in_the_tree() -> None:
    ignored = (DEPLOY / "compose" / "secrets" / ".gitignore").read_text("utf-8").split()
    assert ignored == ["*", "!.gitignore"]
    assert all(secret["file"].startswith("./compose/secrets/") for secret in compose()["secrets"].values())


def test_tidegate_is_started_with_options_that_it_knows() -> None:
    command = SERVICES["tidegate"]["command"]
    assert_runs(command)
    kept = SERVICES["tidegate"]["volumes"][0].partition(":")[2]
    assert kept == "/var/lib/tidegate"
    assert of_option(command, "--sink")[0].startswith(f"{kept}/")
    assert of_option(command, "--recovery")[0].startswith(f"{kept}/")


def test_the_topics_that_tidegate_uses_are_made_before_it_starts() -> None:
    assert SERVICES["tidegate"]["depends_on"]["topics"] == {"condition": "service_completed_successfully"}
    made = SERVICES["topics"]["command"][0]
    for address in of_option(SERVICES["tidegate"]["command"], "--source") + of_option(
        SERVICES["tidegate"]["command"], "--sink"
    ):
        if address.startswith("kafka:"):
            for pair in address.partition("?")[2].split("&"):
                assert f" {pair.partition('=')[2]}" in made


def test_tidegate_may_take_the_time_to_drain() -> None:
    settings = Settings.load(DEPLOY / "compose" / "tidegate.toml")
    assert int(SERVICES["tidegate"]["stop_grace_period"].rstrip("s")) > drains_within_s(settings)
    assert settings.trace_otlp_endpoint == "http://collector:4317"


def test_mosquitto_lets_nobody_in_without_a_password() -> None:
    lines = (DEPLOY / "compose" / "mosquitto.conf").read_text("utf-8").splitlines()
    options = dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    assert options["allow_anonymous"] == "false"
    assert options["password_file"].removeprefix("/run/secrets/") in SERVICES["mosquitto"]["secrets"]
    assert options["persistence"] == "true"


def test_the_collector_uses_only_what_it_defines() -> None:
    config = yaml.safe_load((DEPLOY / "compose" / "collector.yaml").read_text("utf-8"))
    for pipeline in config["service"]["pipelines"].values():
        for part in ("receivers", "processors", "exporters"):
            assert set(pipeline[part]) <= set(config[part])
        assert pipeline["processors"][0] == "memory_limiter"
    assert set(config["service"]["extensions"]) <= set(config["extensions"])
    assert config["exporters"]["otlp/jaeger"]["endpoint"] == "jaeger:4317"
