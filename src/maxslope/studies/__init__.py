"""Studies: experiments that one command makes again from nothing, with figures, tables and a page to read.

Each is a function `run_...(out, tell, ...) -> list[Path]` that returns the files it wrote, the page to open first.
"""
