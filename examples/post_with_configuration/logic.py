"""Makes the query; `params` has each storage of the flow by its name."""


def query(first, later, **params):
    limit = first if params["numbers"].load() is None else later
    return {"data": f"select * from demo_table limit {limit}"}
