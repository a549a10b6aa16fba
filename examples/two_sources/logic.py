"""Logic over what other pipelines have stored."""


def sort_and_subtract(db_connectors, **params):
    polled = db_connectors["http_numbers"].load() or []
    streamed = db_connectors["mqtt_numbers"].load() or []
    polled = [row["Generated random number"] for row in polled]
    streamed = [int(row["Generated number"]) for row in streamed]
    return {"sorted list": sorted(polled + streamed), "difference": sum(polled) - sum(streamed)}
