"""The `coldstart` command where even its own packages may be broken: `python -m coldstart`."""

from __future__ import annotations

import argparse
import json
import sys

from coldstart.doctor import DEFAULT_PORT, examine, summary


def main() -> int:
    """Run the command; where it cannot even be imported, say so and, for `doctor`, look all the same."""
    try:
        from coldstart.cli import main as run
    # A broken package raises anything when it is imported.
    except Exception as error:
        if sys.argv[1:2] == ["doctor"]:
            return _plain_doctor(sys.argv[2:])
        sys.stderr.write(
            f"Error: coldstart cannot start, since one of its packages cannot be imported ({type(error).__name__}: "
            f"{error}). `coldstart doctor` says what to do.\n"
        )
        return 2
    run()
    return 0


def _plain_doctor(arguments: list[str]) -> int:
    """`coldstart doctor` by the standard library alone."""
    parser = argparse.ArgumentParser("coldstart doctor")
    for option in ("--studies", "--preset"):
        parser.add_argument(option)
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    parser.add_argument("--conf", nargs=2, action="append", default=[])
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    conf = dict(asked.conf) | ({"preset": asked.preset} if asked.preset else {})
    findings = []
    for finding in examine(asked.studies, conf, asked.port):
        findings.append(finding)
        if not asked.json:
            remedy = f"\n         -> {finding.remedy}" if finding.remedy else ""
            sys.stdout.write(f"{finding.state:7}  {finding.check}: {finding.found}{remedy}\n")
    able = all(finding.state != "problem" for finding in findings)
    if asked.json:
        checks = [vars(finding) for finding in findings]
        sys.stdout.write(json.dumps({"able": able, "summary": summary(findings), "checks": checks}, indent=2) + "\n")
    else:
        sys.stdout.write(f"{summary(findings)}\n")
    return 0 if able else 2


if __name__ == "__main__":
    sys.exit(main())
