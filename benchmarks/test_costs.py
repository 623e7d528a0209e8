"""What each file of tests costs, from pytest's own record.

    make test ARGS=--junitxml=tests.xml
    python -m benchmarks.test_costs tests.xml

Seconds are those of the tests of a file, their fixtures included, added up over the workers.
"""

import argparse
import collections
import json
import os
import platform
from pathlib import Path
from xml.etree import ElementTree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/test_costs.json"))
    arguments = parser.parse_args()
    seconds: collections.Counter[str] = collections.Counter()
    tests: collections.Counter[str] = collections.Counter()
    wall = 0.0
    for record in arguments.records:
        root = ElementTree.parse(record).getroot()
        wall += sum(float(suite.get("time", 0)) for suite in root.iter("testsuite"))
        for case in root.iter("testcase"):
            name = case.get("classname", "").replace(".", "/") + ".py"
            seconds[name] += float(case.get("time", 0))
            tests[name] += 1
    rows = [{"file": name, "tests": tests[name], "seconds": round(s, 1)} for name, s in seconds.most_common()]
    for row in rows:
        print(f"{row['seconds']:8.1f} s {row['tests']:5d}  {row['file']}")
    print(f"{sum(seconds.values()):8.1f} s {sum(tests.values()):5d}  in {wall:.0f} s of the clock")
    found = {
        "command": "make test ARGS=--junitxml=tests.xml; python -m benchmarks.test_costs tests.xml",
        "cpu_count": os.cpu_count(), "platform": f"{platform.system()} {platform.machine()}", "wall_s": round(wall),
        "rows": rows,
    }  # fmt: skip
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
