"""What type checkers say about programs with typed functions, right ones and wrong ones."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

SETUP: Final = """
import asyncio
from dataclasses import dataclass

from garivini import Garivini, Job

app = Garivini()


@dataclass
class Receipt:
    number: int


@app.job(max_attempts=5, timeout=30, unique=["invoice_id"], partition="customer", rate="10/s")
def send_invoice(invoice_id: int, customer: str, *, urgent: bool = False) -> Receipt:
    return Receipt(invoice_id)


@app.job
async def warm(pages: list[str]) -> int:
    return len(pages)


@app.job(takes_job=True)
def import_file(job: Job, path: str) -> None: ...


@app.job(takes_job=True)
async def fetch(job: Job, url: str) -> str:
    return url


@app.schedule("0 6 * * *", tz="Europe/Berlin")
def daily() -> None: ...
"""
#: Lines that are right.
RIGHT: Final = """
receipt: Receipt = send_invoice.insert(7, "acme", urgent=True).wait(timeout=10)
length: int = warm.insert(["/"]).wait()
text: str = fetch.insert(url="x").wait()
again: Receipt = send_invoice(7, "acme")
awaited: int = asyncio.run(warm(["/"]))


async def main() -> Receipt:
    ref = await send_invoice.insert_async(7, customer="acme")
    return await ref.wait_async(timeout=1)


send_invoice.options(run_after=60, priority="high", headers={"a": 1}).insert(7, "acme")
send_invoice.insert_many([send_invoice.call(7, "acme"), (8, "umbrella")])
import_file.insert("/x")
"""
#: Lines that are wrong: each is an error by itself.
WRONG: Final = (
    'send_invoice.insert("7", "acme")',
    "send_invoice.insert(7)",
    'send_invoice.insert(7, "acme", True)',
    'send_invoice.insert(7, "acme", late=True)',
    'wrong: str = send_invoice.insert(7, "acme").wait()',
    'wrong_async: str = warm.insert(["/"]).wait()',
    "warm.insert(7)",
    'import_file.insert(1, "/x")',
    'import_file("/x")',
    'send_invoice.options(priority="urgent").insert(7, "acme")',
    'send_invoice.options(later=1).insert(7, "acme")',
    'send_invoice.call("x", "acme")',
    "app.job(max_attempts='5')(daily)",
    "app.job(retrys=5)(daily)",
    "async def main() -> str:\n    return await send_invoice.insert_async(7, 'a')",
)


def errors_of_mypy(folder: Path, files: list[Path]) -> set[str]:
    """Return the names of the files with errors."""
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(folder / "cache")]
        + [str(file) for file in files],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    return {Path(line.partition(":")[0]).name for line in run.stdout.splitlines() if ": error:" in line}


def errors_of_pyright(folder: Path, files: list[Path]) -> set[str]:
    """Return the names of the files with errors."""
    run = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "--level", "error"]
        + ["--pythonpath", sys.executable]
        + [str(file) for file in files],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    found = json.loads(run.stdout)["generalDiagnostics"]
    return {Path(entry["file"]).name for entry in found if entry["severity"] == "error"}


@pytest.mark.slow
@pytest.mark.parametrize("errors", [errors_of_mypy, errors_of_pyright])
def test_a_type_checker_accepts_right_calls_and_refuses_each_wrong_one(
    tmp_path: Path, errors: object
) -> None:
    assert callable(errors)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    (tmp_path / "shop.py").write_text(SETUP)
    right = tmp_path / "right.py"
    right.write_text(SETUP + RIGHT)
    wrong = []
    for number, line in enumerate(WRONG):
        file = tmp_path / f"wrong_{number:02}.py"
        file.write_text(f"from shop import app, daily, import_file, send_invoice, warm\n\n{line}\n")
        wrong.append(file)
    assert errors(tmp_path, [right, *wrong]) == {file.name for file in wrong}
