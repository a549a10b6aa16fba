"""The logic of the complex service: plain functions, no library of Wiredflow is imported."""


def order_and_calculate(relevant_info=None, db_connectors=None, **params):
    """Sorts all numbers; adds the two sources for an uppercase letter, subtracts them for a lowercase one."""
    polled = [row["Generated random number"] for row in db_connectors["http_numbers"].load() or []]
    streamed = [int(row["Generated number"]) for row in db_connectors["mqtt_numbers"].load() or []]
    letters = db_connectors["http_letters"].load() or []
    if not letters:
        print("no letter yet")
        return None

    letter = letters[-1]["Generated random letter"]

    result = {"sorted list": sorted(polled + streamed)}
    if letter.isupper():
        result["calculated value"] = sum(polled) + sum(streamed)
        result["uppercase"] = "Calculated value is %d" % result["calculated value"]
    else:
        result["calculated value"] = sum(polled) - sum(streamed)
        result["lowercase"] = "Calculated value is %d" % result["calculated value"]
    print("letter %s: %d numbers" % (letter, len(result["sorted list"])))
    return result


def write_report(data, file, **params):
    """A sender of one's own: one line for each result."""
    with open(file, "a", encoding="utf-8") as report:
        report.write("%d numbers, calculated value %d\n" % (len(data["sorted list"]), data["calculated value"]))
