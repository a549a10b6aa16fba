"""Two DAGs for Airflow 3: one that works for a Wiredflow stage, and one that has a Wiredflow pipeline run."""

from __future__ import annotations

import json
import os
import time
import urllib.request

from airflow.sdk import dag, task


@dag(schedule=None, catchup=False, tags=["wiredflow"])
def heavy_scoring():
    @task
    def score(**context):
        """Gets a stage's call as `conf`, and returns what the stage made."""
        call = context["dag_run"].conf
        rows = call["batch"] if isinstance(call["batch"], list) else [call["batch"]]
        print(f"attempt {call['attempt']} of {call['id']}: {len(rows)} rows")
        return [{"n": row["n"], "score": row["n"] * call["params"]["factor"]} for row in rows]

    score()


def ask(path: str, method: str = "GET"):
    """Asks the API of the running flow. The token is in the flow's state folder: token.operator."""
    base = os.environ.get("WIREDFLOW_URL", "http://127.0.0.1:8420")
    with open(os.environ["WIREDFLOW_TOKEN_FILE"]) as file:
        headers = {"Authorization": "Bearer " + file.read().strip()}
    request = urllib.request.Request(base + path, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def newest_run(pipeline: str):
    runs = ask(f"/api/v1/runs?pipeline={pipeline}&limit=1")["runs"]
    return runs[0] if runs else None


@dag(schedule=None, catchup=False, tags=["wiredflow"])
def wait_for_wiredflow():
    @task
    def run_pipeline(pipeline: str = "report"):
        """Triggers a pipeline, and waits until that run has ended."""
        before = newest_run(pipeline)
        ask(f"/api/v1/pipelines/{pipeline}/trigger", "POST")
        while True:
            run = newest_run(pipeline)
            if run and run["outcome"] and (before is None or run["id"] != before["id"]):
                break
            time.sleep(1)
        if run["outcome"] != "committed":
            raise RuntimeError(f"the run of {pipeline} has ended as {run['outcome']}: {run.get('error')}")
        return run

    run_pipeline()


heavy_scoring()
wait_for_wiredflow()
