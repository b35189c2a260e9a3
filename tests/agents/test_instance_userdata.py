"""User data of Instances on a fake cloud with simulated hosts: planned, run once, told, and never shown."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import pytest
from tests.support.agents import AgentWorld, instance, tools_of

from agentmetal.agents.instance.agent import InstanceAgent
from agentmetal.agents.instance.api import Instance
from agentmetal.agents.instance.observation import InstanceObservation
from agentmetal.core.condition import Condition, ConditionStatus, ConditionType, Reason
from agentmetal.core.errors import Unavailable
from agentmetal.core.machine import Completed
from agentmetal.core.plan import Plan
from agentmetal.core.tool import NotYet, Result
from agentmetal.engine.agent import Report
from agentmetal.providers.fake_hosts import Effect, FakeHost
from agentmetal_tools.hosts import HOST_USER_DATA, USER_DATA_LOG
from agentmetal_tools.looks import MAX_FILE, USER_DATA_PATH
from agentmetal_tools.userdata import Note, read_note

pytestmark = pytest.mark.looptime

PASSWORD = "hunter2"
TEXT = f"""#cloud-config
ntp: {{}}
write_files: [{{path: /etc/password, content: {PASSWORD}, permissions: '0600'}}]
runcmd: [[setup, first], [setup, second]]
"""
SHA = hashlib.sha256(TEXT.encode()).hexdigest()
SECRET = {"userDataSecretRef": {"name": "first-boot"}}
READY, DEGRADED = ConditionType.READY, ConditionType.DEGRADED


class Story:
    """One Instance, looked at and planned for as the loop does."""

    def __init__(self, **spec: Any) -> None:
        self.world = AgentWorld()
        self.agent = InstanceAgent(self.world.ports)
        self.spec = spec
        self.status: dict[str, Any] = {}
        self.world.hosts.unit(["setup"], Effect(seconds=5))
        self.shown: list[str] = []
        """Everything that plans, results and reports said."""

    @property
    def web(self) -> Instance:
        return instance(status=self.status, **self.spec)

    @property
    def host(self) -> FakeHost:
        return self.world.hosts.host("fake-1")

    @property
    def note(self) -> Note | None:
        return read_note(self.host.files.get(USER_DATA_PATH, b"").decode())

    def runs(self) -> list[tuple[str, ...]]:
        return [run.argv for run in self.world.hosts.journal if run.argv[0] == "setup"]

    async def look(self) -> InstanceObservation:
        observed = await self.agent.observe(self.web)
        report = self.agent.report(self.web, observed)
        self.status = {**self.status, **report.fields}
        self.shown.append(f"{report} {observed}")
        return observed

    async def plan(self) -> Plan:
        plan = self.agent.reconcile(self.web, await self.look())
        self.shown.append(str(plan))
        return plan

    async def report(self) -> Report:
        return self.agent.report(self.web, await self.look())

    async def condition(self, type: ConditionType) -> Condition | None:
        return next((found for found in (await self.report()).conditions if found.type is type), None)

    async def carry_out(self, plan: Plan, *, operation: str = "op-1") -> None:
        """As the executor does; transient trouble keeps the attempt."""
        tools = {tool.name: tool for tool in self.agent.tools()}
        for number, step in enumerate(plan.steps, start=1):
            tool, context = tools[step.tool], self.world.context(self.web, step=number, operation=operation)
            params = tool.parse(step.parameters)
            assert tool.holds(params, await tool.read(context, params)) is None
            while isinstance(ended := await tool.run(context, params), NotYet):  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(ended.again_in)
            assert isinstance(ended, Result)
            self.shown.append(ended.message)

    async def made(self) -> None:
        await self.carry_out(await self.plan())
        await self.look()


async def test_without_cloud_init_it_is_done_step_by_step_and_once() -> None:
    story = Story(userData=TEXT)
    plan = await story.plan()

    assert tools_of(plan) == ["provision_instance", "wait_for_ready", "prepare_host", "apply_user_data"]
    assert plan.steps[-1].description.endswith("not understood and left out: ntp")
    assert "not understood: ntp" in plan.steps[-1].evidence
    assert story.status["userData"] == {"state": "Pending", "sha256": SHA, "ignored": ["ntp"]}
    await story.carry_out(plan)

    await story.look()
    assert story.host.files["/etc/password"] == PASSWORD.encode()
    assert story.host.modes["/etc/password"] == 0o600
    assert story.runs() == [("setup", "first"), ("setup", "second")]
    assert story.status["userData"] == {"state": "Done", "sha256": SHA, "ignored": ["ntp"]}
    assert HOST_USER_DATA not in story.world.secrets.held["web-host-key"]
    assert await story.plan() == Plan()
    assert (await story.report()).conditions[0].status is ConditionStatus.TRUE


async def test_with_cloud_init_the_provider_gets_it_and_its_end_is_waited_for() -> None:
    story, said = Story(image="bookworm-cloud", userData=TEXT), ["running", "running", "done"]
    story.world.hosts.command(["cloud-init", "status"], lambda host, argv, stdin: _status(said))

    await story.made()

    assert story.world.cloud.server("fake-1").spec.user_data == TEXT
    assert said == ["done"]
    assert story.runs() == []
    assert story.status["userData"] == {"state": "Done", "sha256": SHA, "ignored": []}


def _status(said: list[str]) -> Completed:
    status = said.pop(0) if len(said) > 1 else said[0]
    return Completed(exit_code=int(status == "error"), stdout=json.dumps({"status": status}), stderr="")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Completed(exit_code=1, stdout='{"status": "error"}', stderr=""), "/var/log/cloud-init-output.log"),
        (Completed(exit_code=127, stdout="", stderr="not found"), "cloud-init does not run"),
        (Completed(exit_code=0, stdout='["done"]', stderr=""), "cloud-init does not run"),
        (Completed(exit_code=0, stdout="[" * 5000, stderr=""), "cloud-init does not run"),
        (Completed(exit_code=0, stdout='{"status": {}}', stderr=""), "cloud-init does not run"),
    ],
)
async def test_a_cloud_init_that_failed_degrades_a_server_that_can_be_used(answer: Completed, told: str) -> None:
    story = Story(image="bookworm-cloud", userData=TEXT)
    story.world.hosts.command(["cloud-init", "status"], lambda host, argv, stdin: answer)

    await story.made()

    degraded, ready = await story.condition(DEGRADED), await story.condition(READY)
    assert degraded is not None and degraded.reason is Reason.USER_DATA_FAILED
    assert told in degraded.message
    assert ready is not None and ready.status is ConditionStatus.TRUE
    assert story.status["userData"]["state"] == "Failed"
    assert await story.plan() == Plan()


async def test_the_first_command_that_fails_is_the_last_and_is_named() -> None:
    story = Story(userData=TEXT)
    story.world.hosts.unit(["setup"], Effect(exit_code=3, output="no such thing"))

    await story.made()

    degraded = await story.condition(DEGRADED)
    assert degraded is not None
    assert (
        degraded.message == f"its user data failed: runcmd[0] failed with exit code 3: see {USER_DATA_LOG} on the host"
    )
    assert story.runs() == [("setup", "first")]
    assert story.host.files[USER_DATA_LOG] == b"runcmd[0]\nno such thing\n"
    assert story.host.modes[USER_DATA_LOG] == 0o600


async def test_a_program_that_is_not_there_is_a_failure_too() -> None:
    story = Story(userData="#cloud-config\nruncmd: [[no-such-program]]\n")

    await story.made()

    degraded = await story.condition(DEGRADED)
    assert degraded is not None and "runcmd[0] failed, for the host has no such program" in degraded.message


async def test_nothing_of_a_secret_is_shown_anywhere() -> None:
    story = Story(**SECRET)
    story.world.secrets.held["first-boot"] = {"userData": TEXT.encode()}
    story.world.hosts.unit(["setup"], Effect(exit_code=1, output=PASSWORD))

    await story.made()
    await story.condition(DEGRADED)

    assert story.host.files["/etc/password"] == PASSWORD.encode()
    assert story.status["userData"] == {"state": "Failed", "sha256": "", "ignored": ["ntp"]}
    for said in (*story.shown, json.dumps(story.status), story.host.files[USER_DATA_PATH].decode()):
        assert PASSWORD not in said
        assert SHA not in said


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        ({}, Reason.SECRET_MISSING),
        ({"first-boot": {"other": b""}}, Reason.SECRET_MISSING),
        ({"first-boot": {"userData": b"\xff"}}, Reason.INVALID_SPEC),
        ({"first-boot": {"userData": b"#cloud-config\na: ]"}}, Reason.INVALID_SPEC),
    ],
)
async def test_user_data_that_cannot_be_had_orders_nothing(held: dict[str, Any], reason: Reason) -> None:
    story = Story(**SECRET)
    story.world.secrets.held.update(held)

    assert await story.plan() == Plan()

    ready = await story.condition(READY)
    assert ready is not None and ready.reason is reason
    story.world.secrets.held["first-boot"] = {"userData": TEXT.encode()}
    assert tools_of(await story.plan())[-1] == "apply_user_data"


async def test_a_secret_that_is_not_released_for_use_is_told() -> None:
    story = Story(**SECRET)
    story.world.secrets.forbidden.add("first-boot")

    ready = await story.condition(READY)

    assert ready is not None and ready.reason is Reason.SECRET_NOT_USABLE


@pytest.mark.parametrize("image", ["bookworm", "bookworm-cloud"])
async def test_broken_yaml_is_told_with_its_line_before_anything_is_ordered(image: str) -> None:
    story = Story(image=image, userData="#cloud-config\nusers: []\npackages: [a\n")

    assert await story.plan() == Plan()

    ready = await story.condition(READY)
    assert ready is not None and (ready.reason, "line 4" in ready.message) == (Reason.INVALID_SPEC, True)
    assert story.world.cloud.calls.count("provision_server") == 0


async def test_a_change_waits_for_the_next_rebuild_and_status_says_what_ran() -> None:
    story = Story(userData=TEXT)
    await story.made()
    story.spec["userData"] = later = TEXT.replace("second", "third")

    assert await story.plan() == Plan()
    assert story.status["userData"]["sha256"] == SHA

    story.spec["image"] = "bookworm-20"
    plan = await story.plan()
    assert tools_of(plan)[::3] == ["rebuild_instance", "apply_user_data"]
    await story.carry_out(plan, operation="op-2")
    await story.look()
    assert story.status["userData"]["sha256"] == hashlib.sha256(later.encode()).hexdigest()
    assert story.runs()[2:] == [("setup", "first"), ("setup", "third")]


async def test_what_cloud_init_ran_is_named_although_the_spec_says_something_else_since() -> None:
    story = Story(image="bookworm-cloud", userData=TEXT)
    story.world.hosts.command(["cloud-init", "status"], lambda host, argv, stdin: _status(["done"]))
    plan = await story.plan()
    await story.carry_out(Plan(steps=plan.steps[:3]))
    story.spec["userData"] = TEXT + "# later\n"

    await story.carry_out(await story.plan(), operation="op-2")

    await story.look()
    assert story.status["userData"] == {"state": "Done", "sha256": SHA, "ignored": []}
    assert await story.plan() == Plan()


async def test_user_data_added_later_does_nothing_to_a_server_that_is_there() -> None:
    story = Story()
    await story.made()
    story.spec["userData"] = TEXT

    assert await story.plan() == Plan()
    assert story.status["userData"] is None


async def test_a_plan_that_ended_too_early_is_made_up_for_where_it_stopped() -> None:
    story = Story(userData=TEXT)
    plan = await story.plan()
    await story.carry_out(Plan(steps=plan.steps[:3]))
    ready = await story.condition(READY)
    assert ready is not None and (ready.reason, ready.message) == (Reason.PLAN_PENDING, "its user data has not run yet")

    again = await story.plan()
    assert tools_of(again) == ["apply_user_data"]
    work = asyncio.create_task(story.carry_out(again, operation="op-2"))
    await asyncio.sleep(7)  # in the middle of the second command
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await story.look()
    assert story.status["userData"]["state"] == "Running"
    await story.carry_out(await story.plan(), operation="op-3")

    assert [argv[1] for argv in story.runs()] == ["first", "second"], "op-3 waits for the command that op-2 began"
    assert await story.plan() == Plan()


async def test_a_call_that_is_repeated_runs_no_command_twice() -> None:
    story = Story(userData=TEXT)
    plan = await story.plan()
    await story.carry_out(Plan(steps=plan.steps[:3]))
    step = plan.steps[3]
    tool, context = {tool.name: tool for tool in story.agent.tools()}[step.tool], story.world.context(story.web, step=4)
    story.world.hosts.faults.lose_reply(Unavailable("the line broke"), call="start_unit")

    for _ in range(100):
        try:
            ended = await tool.run(context, tool.parse(step.parameters))
        except Unavailable:
            continue
        if isinstance(ended, Result):
            break
        await asyncio.sleep(0.5)

    assert [argv[1] for argv in story.runs()] == ["first", "second"]


async def test_user_data_that_changed_after_the_plan_is_refused() -> None:
    story = Story(userData=TEXT)
    plan = await story.plan()
    await story.carry_out(Plan(steps=plan.steps[:3]))
    story.spec["userData"] = TEXT + "#\n"
    step = plan.steps[3]
    tool, context = {tool.name: tool for tool in story.agent.tools()}[step.tool], story.world.context(story.web)
    params = tool.parse(step.parameters)

    refusal = tool.holds(params, await tool.read(context, params))

    assert refusal is not None and "changed" in refusal.message


@pytest.mark.parametrize("note", [b"{", b"[]", b'{"state": "Great"}', b'{"state": "Done", "message": 7}'])
async def test_a_note_that_somebody_changed_is_told_and_nothing_is_run_again(note: bytes) -> None:
    story = Story(userData=TEXT)
    await story.made()
    story.host.files[USER_DATA_PATH] = note

    degraded = await story.condition(DEGRADED)

    assert degraded is not None and "somebody changed it" in degraded.message
    assert await story.plan() == Plan()


async def test_what_a_host_notes_is_shown_in_one_printable_line() -> None:
    story = Story(userData=TEXT)
    await story.made()
    evil = "all is well\n\x1b[2J\u202e"
    note = {"uid": story.note.uid if story.note else "", "state": "Failed", "message": evil, "ignored": [evil]}
    story.host.files[USER_DATA_PATH] = json.dumps(note).encode()

    degraded = await story.condition(DEGRADED)

    assert degraded is not None and "all is well" in degraded.message
    assert degraded.message.isprintable()
    read = read_note(json.dumps(note))
    assert read is not None and read.ignored[0].isprintable()


async def test_cloud_init_that_cannot_answer_now_is_asked_again() -> None:
    story = Story(image="bookworm-cloud", userData=TEXT)
    answers = [Completed(exit_code=137, stdout="", stderr="Killed"), _status(["done"])]
    story.world.hosts.command(["cloud-init", "status"], lambda host, argv, stdin: answers.pop(0))
    plan = await story.plan()

    with pytest.raises(Unavailable, match="asked again"):
        await story.carry_out(plan)
    await story.carry_out(Plan(steps=plan.steps[-1:]))

    assert story.note is not None and story.note.state == "Done"


async def test_a_text_of_which_much_is_not_understood_is_planned_and_noted_all_the_same() -> None:
    odd = "{path: /x, " + ", ".join(f"k{number}: 1" for number in range(9)) + "}"
    story = Story(userData=f"#cloud-config\nwrite_files: [{', '.join([odd] * 60)}]\n")

    await story.made()

    assert story.note is not None and story.note.state == "Done"
    assert len(story.host.files[USER_DATA_PATH]) < MAX_FILE, "no more of it is looked at"
    told = story.status["userData"]
    assert told["state"] == "Done"
    assert told["ignored"][0].startswith("write_files[0] (because of")
    assert told["ignored"][-1] == f"and {60 - len(told['ignored']) + 1} more"


async def test_the_note_of_another_instance_counts_for_nothing() -> None:
    story = Story(userData=TEXT)
    plan = await story.plan()
    await story.carry_out(Plan(steps=plan.steps[:3]))
    story.host.files[USER_DATA_PATH] = json.dumps(Note(uid="other", state="Done").wire()).encode()

    assert tools_of(await story.plan()) == ["apply_user_data"]
    await story.carry_out(await story.plan(), operation="op-2")

    assert len(story.runs()) == 2


@pytest.mark.parametrize(("there", "gap"), [("ssh-ed25519 OLD\n", ""), ("ssh-ed25519 OLD", "\n"), ("", "")])
async def test_keys_are_appended_as_the_user_so_what_was_there_stays(there: str, gap: str) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBsS6gQF5SDn4a8QNIvEgZmN4Ra0yA0N9gUY5sp1m3rE ann"
    story, calls = Story(userData=f"#cloud-config\nssh_authorized_keys: ['{key}']\n"), list[tuple[str, ...]]()
    entry = Completed(exit_code=0, stdout="root:x:0:0:root:/root:/bin/bash\n", stderr="")
    story.world.hosts.command(["getent", "passwd"], lambda host, argv, stdin: entry)
    written: list[bytes] = []

    def as_user(host: FakeHost, argv: Sequence[str], stdin: bytes) -> Completed:
        calls.append(tuple(argv))
        written.append(stdin)
        return Completed(exit_code=0, stdout=there if argv[4] == "cat" else "", stderr="")

    story.world.hosts.command(["runuser", "-u", "root"], as_user)
    await story.made()

    assert [argv[4] for argv in calls] == ["mkdir", "cat", "tee"]
    assert calls[-1][5] == "-a"
    assert written[-1].decode() == f"{gap}{key}\n"
    assert story.note is not None and story.note.state == "Done"
