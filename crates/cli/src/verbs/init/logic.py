"""The logic of the flow: plain functions, named in flow.yaml."""


def statistics(relevant_info=None, db_connectors=None, pipeline_name=None, newest=10):
    """Looks at the newest numbers that the pipeline `numbers` has stored.

    relevant_info   what came into the stage: a dict for one record, a list for many, None for none
    db_connectors   the flow's storages by name; load() gives a list of dicts, oldest first
    newest          from the stage's `params`

    What is returned goes on to the next stage, None goes nowhere, and a generator may yield many
    times. What is printed is logged; an exception is a failure of this call, never of the flow.
    """
    rows = db_connectors["numbers"].load() or []
    numbers = [row["Generated random number"] for row in rows[-newest:]]
    if not numbers:
        print("no numbers yet")
        return None
    return {
        "count": len(numbers),
        "smallest": min(numbers),
        "largest": max(numbers),
        "mean": sum(numbers) / len(numbers),
    }
