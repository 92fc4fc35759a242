"""Runs one row of compare.py without peers, and its ways to fail.   usage: test.py LONGGEN"""
import json
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent


def compare(*arguments):
    return subprocess.run([sys.executable, str(HERE / "compare.py"), *arguments], capture_output=True, text=True,
                          check=False)


def expect(holds, what, done):
    if not holds:
        sys.exit(f"not so: {what}\n{done.stdout}\n{done.stderr}")


def main():
    longgen = sys.argv[1]
    done = compare("--list")
    expect(done.returncode == 0 and "prefill-2k" in done.stdout.split(), "--list names the rows", done)

    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "rows.json"
        done = compare("--longgen", longgen, "--peers", "--rows", "products-dw", "--threads", "2", "-o", str(output))
        expect(done.returncode == 0, "a row without peers succeeds", done)
        table = [line for line in done.stdout.splitlines() if line.startswith("| product dw")]
        expect(len(table) == 5, "a line for each of five products", done)
        result = json.loads(output.read_text())
        expect(all(row["longgen"] > 0 and row["ratio"] is None for row in result["rows"]),
               "rates without ratios in the JSON", done)
        expect(result["machine"]["peaks"], "the machine's peaks are there", done)

    done = compare("--longgen", "/bin/false", "--peers", "--rows", "products-dw")
    expect(done.returncode == 1 and "/bin/false" in done.stderr, "a program that fails is an error", done)
    for wrong in (["--longgen", "/nonexistent"], ["--longgen", longgen, "--rounds", "0"]):
        done = compare(*wrong, "--check")
        expect(done.returncode == 2 and wrong[-1] in done.stderr, "wrong arguments are told at once", done)
    done = compare("--longgen", longgen, "--check")
    expect(done.returncode == 0 and not done.stdout, "--check runs nothing", done)
    done = compare("--rows", "bogus")
    expect(done.returncode == 2 and "bogus" in done.stderr, "an unknown row is refused", done)
    print("all well")


if __name__ == "__main__":
    main()
