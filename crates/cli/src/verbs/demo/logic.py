"""The core logic of the demo."""


def calculate(relevant_info=None, db_connectors=None, **params):
    """Sorts the newest numbers; a capital letter adds them up, a small one takes them away from 100."""
    numbers = [row["Generated random number"] for row in db_connectors["numbers"].load() or []][-5:]
    numbers += [int(row["Generated number"]) for row in db_connectors["stream"].load() or []][-5:]
    letters = [row["Generated random letter"] for row in db_connectors["letters"].load() or []]
    if not numbers or not letters:
        return None
    adds = letters[-1].isupper()
    return {
        "letter": letters[-1],
        "sorted list": sorted(numbers),
        "calculated value": sum(numbers) if adds else 100 - sum(numbers),
    }
