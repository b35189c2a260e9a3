"""One vocabulary, one line a record, and no secrets."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agentmetal.core.logs import REDACTED, Action, JsonFormatter, TextFormatter, configure, log_action, redacted
from agentmetal.core.resource import Key


class Log:
    """A logger of one's own and what it wrote."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self.written = io.StringIO()
        handler = logging.StreamHandler(self.written)
        handler.setFormatter(formatter)
        self.logger = logging.Logger("agentmetal.test")
        self.logger.addHandler(handler)

    @property
    def line(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.written.getvalue())
        return parsed


@pytest.fixture
def log() -> Log:
    return Log(JsonFormatter())


@pytest.fixture
def terminal() -> Log:
    return Log(TextFormatter())


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def private_key(form: PrivateFormat) -> str:
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, form, NoEncryption()).decode()


def test_an_action_is_one_line_of_json_in_our_vocabulary(log: Log) -> None:
    key = Key("Instance", "shop", "web-1")
    log_action(
        log.logger, Action.STEP, "machine made", resource=key, operation="op-1", step="1/3", took=2.5, tries=None
    )
    line = log.line
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "agentmetal.test",
        "message": "machine made",
        "action": "step",
        "resource": "Instance shop/web-1",
        "operation": "op-1",
        "step": "1/3",
        "took": 2.5,
        "tries": None,
    }


def test_empty_fields_are_left_out(log: Log) -> None:
    log_action(log.logger, Action.LEAD)
    assert log.line.keys() == {"time", "level", "logger", "message", "action"}
    assert log.line["message"] == "lead"


def test_a_message_is_never_a_format(log: Log) -> None:
    log_action(log.logger, Action.OBSERVE, "disk 100% full, %s and %d")
    assert log.line["message"] == "disk 100% full, %s and %d"


def test_fields_of_logging_itself_are_refused(log: Log) -> None:
    with pytest.raises(ValueError, match=r"'msg'.*name them otherwise"):
        log_action(log.logger, Action.OBSERVE, msg="x")


def test_ordinary_extra_fields_are_shown_too(log: Log) -> None:
    log.logger.info("connection %s", "lost", extra={"action": "observe", "owner": "shop/web-1"})
    assert (log.line["message"], log.line["action"], log.line["owner"]) == ("connection lost", "observe", "shop/web-1")


def test_exceptions_stay_in_their_line(log: Log) -> None:
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError:
        log.logger.exception("failed")
    assert "ZeroDivisionError: by nothing" in log.line["error"]


def test_people_get_one_readable_line(terminal: Log) -> None:
    log_action(terminal.logger, Action.PLAN, "3 steps", resource="Instance shop/web-1", risk="Moderate")
    assert (
        terminal.written.getvalue()[8:]
        == ' INFO    3 steps  action=plan resource="Instance shop/web-1" risk=Moderate\n'
    )


def test_a_remote_host_cannot_forge_a_line(terminal: Log) -> None:
    log_action(terminal.logger, Action.STEP, "host said: x\n12:00:00 INFO approved", output="y\n12:00:01 INFO approved")
    assert len(terminal.written.getvalue().splitlines()) == 1


@pytest.mark.parametrize("form", [PrivateFormat.OpenSSH, PrivateFormat.PKCS8])
def test_private_keys_are_never_written(log: Log, form: PrivateFormat) -> None:
    key = private_key(form)
    body = key.splitlines()[1]
    log_action(log.logger, Action.STEP, f"before {key} after", material=key, nested={"list": [key, key.encode()]})
    assert body not in log.written.getvalue()
    assert (
        log.line["message"] == f"before {REDACTED} after".replace(" after", "\n after")
        or "after" in log.line["message"]
    )
    assert log.line["nested"]["list"][0].startswith(REDACTED)


def test_a_private_key_that_is_cut_off_is_not_written_either(log: Log) -> None:
    cut = private_key(PrivateFormat.OpenSSH)[:-60]
    log_action(log.logger, Action.STEP, f"output: {cut}")
    assert log.line["message"] == f"output: {REDACTED}"


def test_private_keys_in_exceptions_are_not_written(log: Log) -> None:
    key = private_key(PrivateFormat.PKCS8)
    try:
        raise ValueError(f"cannot read {key}")
    except ValueError:
        log.logger.exception("failed")
    assert key.splitlines()[1] not in log.written.getvalue()


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer abcdef123456789", "abcdef123456789"),
        ("token eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZG1pbiJ9.c2lnbmF0dXJl", "eyJhbGciOiJSUzI1NiJ9"),
        ("postgresql://admin:hunter2@db.example:5432/x", "hunter2"),
        ("PGPASSWORD=hunter2 psql", "hunter2"),
        ("password: 'hunter2', next", "hunter2"),
        ('{"api_key": "hunter2"}', "hunter2"),
    ],
)
def test_what_looks_like_a_secret_is_replaced(text: str, secret: str) -> None:
    assert secret not in redacted(text)
    assert REDACTED in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDFiqWeuUgoJAHdGZM",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJl3dIeudNqd0DPMRD6OIh65tjkxFNOtGGzyfgM/Dc8I web-1",
        "https://10.0.0.1:6443/apis/agentmetal.io/v1alpha1",
        "op-0123456789abcdef-12 of Instance shop/web-1",
        "the password is refused",
    ],
)
def test_what_people_need_is_kept(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(
    "name", ["password", "db_passwd", "private_key", "privateKey", "api_key", "join_token", "user_data"]
)
def test_fields_with_telling_names_are_replaced(log: Log, name: str) -> None:
    log_action(log.logger, Action.STEP, **{name: "short"})  # type: ignore[arg-type]  # names and values are free
    assert log.line[name] == REDACTED


@pytest.mark.parametrize("format", ["json", "text"])
def test_configured_logs_go_to_the_stream_from_the_level_on(root: logging.Logger, format: str) -> None:
    stream = io.StringIO()
    configure(stream=stream, format=format, level="warning")
    logging.getLogger("agentmetal.test").info("quiet")
    logging.getLogger("agentmetal.test").warning("loud")
    assert len(stream.getvalue().splitlines()) == 1
    assert "loud" in stream.getvalue()
    assert stream.getvalue().startswith("{") == (format == "json")


@pytest.mark.parametrize("name", ["asyncssh", "asyncssh.sftp"])
def test_no_level_lets_the_command_lines_of_hosts_into_the_log(root: logging.Logger, name: str) -> None:
    stream = io.StringIO()
    configure(stream=stream, format="json", level="debug")
    logging.getLogger(name).info("  Command: %s", "'setup' hunter2")
    assert not stream.getvalue()
