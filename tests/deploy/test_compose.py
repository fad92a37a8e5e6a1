"""`compose.yaml` against the compose specification's schema, and what it promises; no container engine is needed."""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from monailabel.config import Settings as MonaiLabelSettings

SCHEMA = Path(__file__).with_name("compose_spec.json")
"""As docker-compose 1.29.2 carries it (Apache-2.0)."""


@pytest.fixture(scope="module")
def deploy(repository: Path) -> Path:
    return repository / "deploy"


@pytest.fixture(scope="module")
def compose(deploy: Path) -> dict[str, Any]:
    return yaml.safe_load((deploy / "compose.yaml").read_text())


def stages(deploy: Path) -> dict[str, str]:
    """Text of each stage of the Containerfile, by its name."""
    text = (deploy / "Containerfile").read_text()
    parts = re.split(r"^FROM \S+ AS (\w+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_setting_of_the_log_in_reaches_the_server(compose: dict[str, Any]) -> None:
    """With MONAI Label's own default; the realm has none."""
    app = compose["services"]["app"]
    fields = {
        name: one for name, one in MonaiLabelSettings.model_fields.items() if name.startswith("MONAI_LABEL_AUTH_")
    }
    assert len(fields) > 10
    for name, field in fields.items():
        default = "" if name.endswith("REALM_URI") else json.dumps(field.default).strip('"')
        assert app["environment"][name] == f"${{{name}:-{default}}}"
    (authorities,) = [text for text in app["volumes"] if "REQUESTS_CA_BUNDLE" in text]
    assert filled(authorities) == "/dev/null:/etc/coldstart_al/no-authorities:ro"
    assert re.sub(r"\$\{.*?\}", "/house.pem", authorities) == "/house.pem:/house.pem:ro"
    assert app["environment"]["REQUESTS_CA_BUNDLE"] == "${REQUESTS_CA_BUNDLE:-}"  # an empty one counts as none


def test_commands_of_the_page_are_the_same_with_a_card(deploy: Path, repository: Path) -> None:
    """A card is a setting: who forgets an option at the next upgrade would have a server without it."""
    example = (deploy / "environment.example").read_text()
    (names,) = re.findall(r"^#COMPOSE_FILE=(.*)$", example, re.MULTILINE)
    assert {path.name for path in deploy.glob("compose*.yaml")} == set(names.split(":"))
    page = (repository / "docs" / "deploy.md").read_text()
    assert "docker compose up --build" in page and not re.search(r"docker compose .*(-f|--file) ", page)


def filled(text: str) -> str:
    """Text with the defaults of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def complaints(document: object, tmp_path: Path) -> str:
    path = tmp_path / "compose.json"
    path.write_text(json.dumps(document))
    command = [sys.executable, "-W", "ignore", "-m", "jsonschema", "-i", str(path), str(SCHEMA)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return ended.stderr if ended.returncode else ""


@pytest.mark.parametrize("name", ["compose.yaml", "compose.nvidia.yaml"])
def test_compose_files_are_valid(deploy: Path, tmp_path: Path, name: str) -> None:
    assert complaints(yaml.safe_load((deploy / name).read_text()), tmp_path) == ""


def test_schema_notices_what_is_wrong(compose: dict[str, Any], tmp_path: Path) -> None:
    wrong = json.loads(json.dumps(compose))
    wrong["services"]["app"]["read_onyl"] = True
    assert "read_onyl" in complaints(wrong, tmp_path)


def test_every_service_is_hardened(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        assert "privileged" not in service and "user" not in service, name


def address(service: dict[str, Any]) -> str:
    """What a service is reached at by the others."""
    return service["networks"]["inside"]["ipv4_address"]


def test_only_the_proxy_is_reached_from_outside(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]
    assert f"--host {address(services['app'])} " in services["app"]["command"]
    assert list(services["archive"]["networks"]) == ["inside"] and compose["networks"]["inside"]["internal"] is True


def test_containers_find_each_other_after_any_of_them_was_made_anew(
    compose: dict[str, Any], deploy: Path, tmp_path: Path
) -> None:
    """None lives in another's network, every address is fixed, and nginx knows the server's before that is there."""
    services = compose["services"]
    assert not any("network_mode" in service for service in services.values())
    subnet = ipaddress.ip_network(filled(compose["networks"]["inside"]["ipam"]["config"][0]["subnet"]))
    addresses = [ipaddress.ip_address(filled(address(service))) for service in services.values()]
    assert len(set(addresses)) == len(services) and set(addresses) <= set(list(subnet.hosts())[1:])
    assert services["proxy"]["extra_hosts"] == [f"app:{address(services['app'])}"]
    (edit,) = re.findall(r"^RUN (sed .*coldstart_al\.conf)$", stages(deploy)["proxy"], re.MULTILINE)
    installed = Path(shutil.copy(deploy / "nginx" / "coldstart_al.conf", tmp_path))
    subprocess.run(["sh", "-c", edit.replace("/etc/nginx/conf.d", str(tmp_path))], check=True, timeout=60)
    assert "    server app:8000;\n" in installed.read_text() and "127.0.0.1:8000" not in installed.read_text()
    assert re.findall(r"listen (.*);", installed.read_text()) == ["80", "443 ssl http2"]


def test_server_believes_the_proxy_what_it_says_of_the_client(compose: dict[str, Any]) -> None:
    services = compose["services"]
    trusted = services["app"]["environment"]["FORWARDED_ALLOW_IPS"]
    assert trusted == address(services["proxy"]) != address(services["app"])


def test_volumes_are_named_and_are_those_of_the_image(compose: dict[str, Any], deploy: Path) -> None:
    for name, service in compose["services"].items():
        named = {
            place: volume for volume, place in (text.split(":")[:2] for text in service["volumes"] if "$" not in text)
        }
        assert set(named.values()) <= set(compose["volumes"]), name
        text = stages(deploy)[name]
        assert set(json.loads(re.search(r"^VOLUME (.*)$", text, re.MULTILINE)[1])) == set(named), name
        assert service["build"]["target"] == name
    assert {"/studies", "/state", "/state/models", "/tmp"} <= {
        text.split(":")[1] for text in compose["services"]["app"]["volumes"]
    }
    assert "tmpfs" not in compose["services"]["app"]  # an upload may be larger than the memory


def test_every_image_has_a_user_and_a_health_check(deploy: Path, compose: dict[str, Any]) -> None:
    for name in ("app", "proxy", "archive"):
        user = re.search(r"^USER (\S+):", stages(deploy)[name], re.MULTILINE)
        assert user and user[1] not in ("0", "root"), name
        check = re.search(r"^HEALTHCHECK .*\\\n\s+CMD (\[.*\])$", stages(deploy)[name], re.MULTILINE)
        assert check and json.loads(check[1])[1] == "-c", name
        compile(json.loads(check[1])[2], name, "exec")
        service = compose["services"][name]  # where Podman built it the image has none
        asked = service["healthcheck"]["test"]
        assert asked[:1] == ["CMD"]
        assert [text.replace(address(service), "127.0.0.1") for text in asked[1:]] == json.loads(check[1])


def test_what_is_copied_into_the_images_is_there(deploy: Path, repository: Path) -> None:
    text = (deploy / "Containerfile").read_text()
    copies = [line.split()[1:-1] for line in re.findall(r"^COPY (?!--).*$", text, re.MULTILINE)]
    assert copies
    for names in copies:
        assert all((repository / name).exists() for name in [n for n in names if n != "COPY"]), names


def test_every_variable_is_in_the_example(deploy: Path) -> None:
    example = (deploy / "environment.example").read_text()
    used = set(re.findall(r"\$\{(\w+)", (deploy / "compose.yaml").read_text() + (deploy / "orthanc.json").read_text()))
    assert {name for name in used if not re.search(rf"^#?{name}=", example, re.MULTILINE)} == set()
