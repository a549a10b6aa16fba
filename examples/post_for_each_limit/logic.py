"""One query for each limit."""


def queries(**params):
    for limit in (1, 2, 3):
        yield {"data": f"select * from demo_table limit {limit}"}
