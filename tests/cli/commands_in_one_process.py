"""A script that gives kdwatts several command lines, one after the other, and prints its answers.

Its argument is a list of command lines as JSON; it prints exit code, stdout and stderr of each.
"""

ASK = """
import contextlib, io, json, sys
from kdwatts.cli.command_line import main
answers = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["kdwatts", *arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    answers.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(answers))
"""
