"""Writes what agentdojo's tasks and attacks do as one JSON file, which the tests of the mandate replay.

    python attacks.py OUT.json

For each suite: its tools, its tasks with the calls that solve them and what each call returned, and its attacks with the calls
that they want. A stranger's text in a result is marked by `{{inject:NAME}}`. Needs agentdojo without the SDKs of model makers.
"""

import importlib.util
import json
import os
import sys
import types
import warnings

BENCHMARK = "v1.2.2"

# What a call does; every other one reads.
DEEDS = {
    "pay": "send_money schedule_transaction update_scheduled_transaction reserve_hotel reserve_car_rental reserve_restaurant",
    "security": "update_password",
    "write": "update_user_info append_to_file create_file",
    "delete": "delete_email delete_file remove_user_from_slack",
    "share": "share_file add_user_to_channel invite_user_to_slack",
    "send": "send_email create_calendar_event cancel_calendar_event reschedule_calendar_event "
    "add_calendar_event_participants send_direct_message send_channel_message post_webpage",
}
KINDS = {name: kind for kind, names in DEEDS.items() for name in names.split()}
# Reads that return only what the household itself has set. All others may return what strangers wrote.
OWN = {"get_iban", "get_balance", "get_user_info", "get_user_information", "get_current_day"}
# Reads that tell a host what is read.
FETCHES = {"get_webpage"}


def leave_out_models():
    """Puts empty modules in the place of those that import the SDKs of model makers."""
    folder = importlib.util.find_spec("agentdojo").submodule_search_locations[0]
    pipeline = os.path.join(folder, "agent_pipeline")
    for name, path, members in [
        ("agentdojo.agent_pipeline", pipeline, {}),
        ("agentdojo.agent_pipeline.llms", os.path.join(pipeline, "llms"), {}),
        ("agentdojo.agent_pipeline.llms.google_llm", None, {"EMPTY_FUNCTION_NAME": "<empty-function-name>"}),
        ("agentdojo.logging", None, {"Logger": object}),
    ]:
        module = types.ModuleType(name)
        if path:
            module.__path__ = [path]
        module.__dict__.update(members)
        sys.modules[name] = module


def plain(value):
    """The JSON form of what a tool takes or returns."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value


class Suite:
    def __init__(self, suite, runtime):
        self.suite = suite
        self.runtime = runtime(suite.tools)
        marks = {name: "{{inject:" + name + "}}" for name in suite.get_injection_vector_defaults()}
        # Reading these takes longest.
        self.plain = suite.load_and_inject_default_environment({})
        self.marked = suite.load_and_inject_default_environment(marks)

    def begin(self, task, environment):
        fresh = environment.model_copy(deep=True)
        return task.init_environment(fresh) if hasattr(task, "init_environment") else fresh

    def calls(self, task):
        """The calls of a task, each with what it returned."""
        made = task.ground_truth(self.begin(task, self.plain))
        marked = task.ground_truth(self.begin(task, self.marked))
        world = self.begin(task, self.marked)
        rows = []
        for call, with_marks in zip(made, marked, strict=True):
            result, _ = self.runtime.run_function(world, with_marks.function, with_marks.args)
            rows.append({"function": call.function, "args": plain(call.args), "result": plain(result)})
        return rows

    def tool(self, tool):
        kind = KINDS.get(tool.name, "read")
        return {
            "name": tool.name,
            "kind": kind,
            "parameters": tool.parameters.model_json_schema(),
            "returns_others_text": kind == "read" and tool.name not in OWN,
            "reaches_host": tool.name in FETCHES,
        }

    def written(self):
        users, attacks = self.suite.user_tasks, self.suite.injection_tasks
        return {
            "tools": [self.tool(tool) for tool in self.suite.tools],
            "user_tasks": [
                {"id": task.ID, "prompt": task.PROMPT, "ground_truth": self.calls(task)} for task in users.values()
            ],
            "injection_tasks": [
                {"id": task.ID, "goal": task.GOAL, "calls": self.calls(task)} for task in attacks.values()
            ],
        }


def main():
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Some results are made of sets.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONHASHSEED": "0"})
    warnings.simplefilter("ignore")
    leave_out_models()
    from agentdojo.functions_runtime import FunctionsRuntime
    from agentdojo.task_suite.load_suites import get_suites

    suites = {name: Suite(suite, FunctionsRuntime).written() for name, suite in get_suites(BENCHMARK).items()}
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump({"benchmark": BENCHMARK, "suites": suites}, file)


main()
