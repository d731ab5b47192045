"""Serving under load: start a server, send it requests under the meter, say what they cost.

`session.py` starts one server (`engines/`) and goes over its loads (`curve.py`, `capacity.py`).
For each, `one_load.py` has a process (`client/`) send requests (`load/`), and takes marks of the
meter meanwhile (`server_energy.py`). `measure/` turns answers and joules into figures with their
intervals. `eager_loop.py` is the benchmark without a server.
"""
